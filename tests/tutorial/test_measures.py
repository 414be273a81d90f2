import pytest
import torch
from sklearn.metrics import roc_auc_score

from saetools.tutorial.matching import phi_coefficients
from saetools.tutorial.measures import auc, paired_mean, phi_ceiling, wilson


def test_phi_has_a_ceiling_that_an_inner_column_reaches():
    rows = torch.arange(1000)
    for p, q in ((0.1, 0.4), (0.4, 0.1), (0.3, 0.3)):
        unit, factor = (2.0 * (rows < 1000 * share)[:, None] - 1 for share in (p, q))
        ceiling = phi_ceiling(torch.tensor(p), torch.tensor(q)).item()
        assert phi_coefficients(unit, factor).item() == pytest.approx(ceiling, abs=1e-6)


def test_the_area_is_scikit_learns():
    values = torch.randint(5, (200, 3)).float()  # with ties
    factors = (torch.rand(200, 2) < 0.3).float()
    for unit in range(3):
        for factor in range(2):
            expected = roc_auc_score(factors[:, factor], values[:, unit])
            assert auc(values, factors)[unit, factor].item() == pytest.approx(expected)


def test_wilsons_interval():
    assert wilson(60, 64) == pytest.approx((0.850, 0.975), abs=1e-3)
    assert wilson(64, 64) == pytest.approx((0.943, 1.0), abs=1e-3)
    assert wilson(0, 16)[0] == pytest.approx(0, abs=1e-12)


def test_pairs_are_those_with_the_largest_mean():
    assert paired_mean(torch.tensor([[0.9, 0.8], [0.7, 0.1]])) == pytest.approx(0.75)
