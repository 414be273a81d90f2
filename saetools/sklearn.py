"""A scikit-learn transformer around the recipe (needs scikit-learn)."""

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from saetools.data.checks import check_count, check_number
from saetools.frequency import activation_frequency
from saetools.initialise import varying_directions
from saetools.metrics import fvu
from saetools.penalties import frequency_penalty
from saetools.training.loop import weights_are_finite
from saetools.training.models import SparseAutoencoder
from saetools.training.recipe import train_at_frequency
from saetools.training.start import start_at_frequency_

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # scikit-learn before 1.6

    def validate_data(estimator: Any, X: Any, **options: Any) -> Any:  # noqa: D103
        return estimator._validate_data(X, **options)


_DTYPES = (np.float64, np.float32)  # other numbers become the first of them


class SparseAutoencoderTransformer(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """Rows as a sparse code in which each unit is active on a share rho of the training rows.

    `fit` is `train_at_frequency`, on a `SparseAutoencoder` without bounds on its output. Inside,
    rows are centred and divided by one number, their spread over all columns. The unit of the
    whole table does not matter then; a column that varies more than others counts for more, as
    in PCA, so put a StandardScaler before it where columns are measured in different units.
    It computes in the dtype of the rows it is fitted on, float64 or float32.

    There is no sample_weight, on purpose: a frequency is a share of rows, and a unit is on or
    off for a whole one. To have a row count twice, give it twice.

    Args:
        n_components: number of units of the code.
        rho: the share of the rows on which a unit is to be active, in (0, 1); a tensor
            (n_components,) for one a unit.
        hidden_layer_sizes: widths of the layers between the rows and the code, which the decoder
            mirrors; () for a linear encoder and decoder.
        steps: how many batches `fit` trains on, 4 or more.
        batch_size: rows of a batch in `fit`.
        learning_rate: Adam's, > 0; in `fit` the largest.
        penalty_weight: of `frequency_penalty`, >= 0. The recipe's 0.2 is for rows in [0, 1], whose
            squared error is much smaller than that of rows with a spread of 1.
        tolerance: how far from rho few or tied rows may keep a unit, in (0, 1).
        device: where to compute, as torch names it; None for torch's default device.
        random_state: an int or a RandomState, for the weights and the order of the rows. None
            differs each time, and does not draw from NumPy's global random state.

    Attributes:
        model_: the `SparseAutoencoder`; it takes rows as (X - mean_) / scale_.
        mean_: (n_features_in_,), the mean row.
        scale_: the root of the columns' mean variance, a float.
        frequencies_: (n_components,), the share of the rows on which each unit is active: all
            rows of `fit`, or those of the last `partial_fit`.
        history_: {"error": [...], "penalty": [...]}, for each step the mean squared error of its
            batch, in units of scale_ squared, and the weighted penalty.
        n_iter_: number of steps.
        n_features_in_: number of columns.
        feature_names_in_: their names, where X had any.

    Example:
        >>> from saetools import sparse_mixture
        >>> X = 1000 * sparse_mixture(1000, seed=0).train.numpy() - 70
        >>> sae = SparseAutoencoderTransformer(4, rho=0.15, steps=140, random_state=0)
        >>> code = sae.fit_transform(X)
        >>> code.shape, (code > 0).mean(0).round(2).tolist()
        ((1000, 4), [0.15, 0.15, 0.15, 0.15])
        >>> sae.inverse_transform(code).shape, sae.score(X) > 0.5
        ((1000, 20), True)
    """

    _adam: torch.optim.Adam | None  # of partial_fit

    def __init__(
        self,
        n_components: int = 8,
        *,
        rho: float | Tensor = 0.2,
        hidden_layer_sizes: Sequence[int] = (64,),
        steps: int = 3500,
        batch_size: int = 128,
        learning_rate: float = 1.5e-3,
        penalty_weight: float = 1.0,
        tolerance: float = 0.05,
        device: str | torch.device | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_components = n_components
        self.rho = rho
        self.hidden_layer_sizes = hidden_layer_sizes
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.penalty_weight = penalty_weight
        self.tolerance = tolerance
        self.device = device
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: object = None) -> Self:  # noqa: ARG002
        """Learn from all rows of X (rows, columns), anew; y is ignored.

        Raises:
            TypeError, ValueError: if a parameter is not as above, X is not numeric and finite,
                its rows are all equal, or a unit cannot reach rho within the tolerance.
            FloatingPointError: if training does not stay finite.
        """
        rows = validate_data(self, X, dtype=_DTYPES, ensure_min_samples=2)
        weights_seed, order_seed = self._seeds()
        model, x, mean, scale, start = self._untrained(rows, weights_seed)
        history = train_at_frequency(
            [model],
            x,
            **start,
            steps=self.steps,
            batch_size=self.batch_size,
            lr=check_number("learning_rate", self.learning_rate, above=0),
            weight=check_number("penalty_weight", self.penalty_weight, minimum=0),
            seeds=[order_seed],
            value_range=None,
            observe=_check_weights,  # every 100 steps, and before the units are shifted
        )
        self._keep(model, mean, scale, *(part[:, 0].tolist() for part in history[:2]))
        return self._counted(x)

    def partial_fit(self, X: ArrayLike, y: object = None) -> Self:  # noqa: ARG002
        """Take one step of Adam on the rows of X, as one batch, towards rho on them.

        The first call also decides mean_, scale_ and where the units start, which is at rho on
        its rows: give it some hundreds that are like those to come. After `fit` it goes on from
        what was learned. No unit is shifted to rho at the end, so that it is near rho and not at
        it; nearer with large batches, since in one of 10 rows a frequency is a multiple of a
        tenth. learning_rate is read anew each time: lower it with `set_params`.

        Raises:
            TypeError, ValueError, FloatingPointError: as `fit` does.
        """
        first = not hasattr(self, "model_")
        least = 2 if first else 1
        rows = validate_data(self, X, dtype=_DTYPES, reset=first, ensure_min_samples=least)
        rate = check_number("learning_rate", self.learning_rate, above=0)
        weight = check_number("penalty_weight", self.penalty_weight, minimum=0)
        if first:
            model, x, mean, scale, start = self._untrained(rows, self._seeds()[0])
            start_at_frequency_([model], x, **start)
            self._keep(model, mean, scale, [], [])
        if self._adam is None:
            self._adam = torch.optim.Adam(self.model_.parameters(), fused=True)
        self._adam.param_groups[0]["lr"] = rate
        x = self._scaled(rows)
        output = self.model_(x)
        error = mse_loss(output.reconstruction, x)
        cost = weight * frequency_penalty(output.pre_activations, rho=self.rho)
        if not math.isfinite(error.item() + cost.item()):
            raise FloatingPointError(
                f"the loss is not finite, and no step was taken: squared error {error.item():.2g}, "
                f"penalty {cost.item():.2g}"
            )
        self._adam.zero_grad()
        (error + cost).backward()
        self._adam.step()
        _check_weights(self.model_)
        self.history_["error"].append(error.item())
        self.history_["penalty"].append(cost.item())
        return self._counted(x)

    @torch.no_grad()
    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """The code (rows, n_components) of X (rows, columns): 0 where a unit is not active."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=_DTYPES, reset=False)
        code: NDArray[Any] = self.model_.encode(self._scaled(rows)).relu().numpy(force=True)
        return code

    @torch.no_grad()
    def inverse_transform(self, X: ArrayLike) -> NDArray[Any]:
        """The rows (rows, columns) that a code X (rows, n_components) stands for.

        Raises:
            ValueError: if X is not finite or has another number of columns than there are units.
        """
        check_is_fitted(self)
        code = check_array(X, dtype=_DTYPES)
        if code.shape[1] != self._n_features_out:
            raise ValueError(
                f"X must have one column a unit, {self._n_features_out}, got {code.shape[1]}"
            )
        rows: NDArray[Any] = self.model_.decode(_tensor(code, self.model_)).numpy(force=True)
        return np.asarray(self.scale_ * rows + self.mean_, dtype=rows.dtype)

    @torch.no_grad()
    def score(self, X: ArrayLike, y: object = None) -> float:  # noqa: ARG002
        """The share of the variance of X that is explained, 1 - `fvu`; y is ignored.

        1 is perfect, 0 no better than the mean row of X, and it can be negative. Columns weigh
        by their variance, as in scikit-learn's r2_score with multioutput="variance_weighted".

        Raises:
            ValueError: if X has fewer than 2 rows, or they are all equal.
        """
        check_is_fitted(self)
        x = self._scaled(validate_data(self, X, dtype=_DTYPES, reset=False, ensure_min_samples=2))
        return 1 - fvu(self.model_(x).reconstruction, x).item()

    @property
    def _n_features_out(self) -> int:  # what get_feature_names_out counts by
        return int(self.model_.sizes[-1])

    def _seeds(self) -> list[int]:
        """Two seeds."""
        fresh = self.random_state is None  # where scikit-learn's own would use np.random
        source = np.random.RandomState() if fresh else check_random_state(self.random_state)
        return [int(seed) for seed in source.randint(np.iinfo(np.int32).max, size=2)]

    @torch.no_grad()
    def _untrained(
        self, rows: NDArray[Any], seed: int
    ) -> tuple[SparseAutoencoder, Tensor, NDArray[Any], float, dict[str, Any]]:
        """A model, its rows, their mean and scale, and how `start_at_frequency_` is to start it."""
        units = check_count("n_components", self.n_components)
        if not isinstance(self.hidden_layer_sizes, Sequence):
            raise TypeError(
                f"hidden_layer_sizes must be a sequence of ints, got {self.hidden_layer_sizes!r}"
            )
        hidden = [check_count("hidden_layer_sizes", size) for size in self.hidden_layer_sizes]
        mean, scale = _mean_and_scale(rows)
        model = SparseAutoencoder((rows.shape[1], *hidden, units), nn.Identity(), seed=seed)
        model.to(torch.as_tensor(np.empty(0, rows.dtype), device=self.device))
        x = _tensor((rows - mean) / scale, model)
        # More units than directions to turn them to stay as they are.
        skewed = units <= varying_directions(model.code_inputs(x))
        start = {"rho": self.rho, "skewed": skewed, "tolerance": self.tolerance}
        return model, x, mean, scale, start

    def _keep(
        self, model: SparseAutoencoder, mean: NDArray[Any], scale: float, error: Any, penalty: Any
    ) -> None:
        self.model_, self.mean_, self.scale_, self._adam = model, mean, scale, None
        self.history_ = {"error": error, "penalty": penalty}

    @torch.no_grad()
    def _counted(self, x: Tensor) -> Self:
        self.frequencies_ = activation_frequency(self.model_.encode(x)).numpy(force=True)
        self.n_iter_ = len(self.history_["error"])
        return self

    def _scaled(self, rows: NDArray[Any]) -> Tensor:
        return _tensor((rows - self.mean_) / self.scale_, self.model_)


def _mean_and_scale(rows: NDArray[Any]) -> tuple[NDArray[Any], float]:
    if (rows == rows[:1]).all():
        raise ValueError("X must vary: all of its rows are equal")
    with np.errstate(all="ignore"):
        scale = float(np.sqrt(rows.var(0, dtype=np.float64).mean()))
    if not 0 < scale < math.inf:
        raise ValueError(f"X must vary by amounts that can be squared, got a spread of {scale:g}")
    return rows.mean(0, dtype=np.float64), scale


def _tensor(array: NDArray[Any], model: SparseAutoencoder) -> Tensor:
    """A copy of `array` in the dtype and on the device of the model."""
    parameter = next(model.parameters())
    return torch.tensor(array, dtype=parameter.dtype, device=parameter.device)


def _check_weights(model: nn.Module) -> None:
    if not weights_are_finite(model):
        raise FloatingPointError("training did not stay finite: choose a smaller learning_rate")
