from sklearn.utils.estimator_checks import parametrize_with_checks

from saetools.sklearn import SparseAutoencoderTransformer


@parametrize_with_checks([SparseAutoencoderTransformer(steps=20)])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)
