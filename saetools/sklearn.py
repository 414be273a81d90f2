"""A scikit-learn transformer around `train_at_frequency` (needs scikit-learn)."""

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
from saetools.training.models import SparseAutoencoder
from saetools.training.recipe import train_at_frequency
from saetools.training.start import start_at_frequency_

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # scikit-learn before 1.6

    def validate_data(estimator: Any, X: Any, **options: Any) -> Any:  # noqa: D103
        return estimator._validate_data(X, **options)


_DTYPES = (np.float64, np.float32)  # other numbers become the first of them
_Scaling = tuple[NDArray[Any], float]


class SparseAutoencoderTransformer(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """Rows as a sparse code in which each unit is active on a share rho of the training rows.

    `fit` is `train_at_frequency`, on a `SparseAutoencoder` without bounds on its output. Inside,
    rows are centred and divided by one number, their spread over all columns: the unit of the
    table does not matter, and a column that varies more counts for more, as in PCA. Put a
    StandardScaler before it where columns are measured in different units. It computes in the
    dtype of the rows it is fitted on, float64 or float32.

    There is no sample_weight, on purpose: a frequency is a share of rows, and a unit is on or
    off for a whole one. To have a row count twice, give it twice.

    Args:
        n_components: number of units of the code.
        rho: target frequency; a tensor (n_components,) for one per unit.
        hidden_layer_sizes: widths of the layers between the rows and the code, which the decoder
            mirrors; () for a linear encoder and decoder.
        steps: how many batches `fit` trains on, of batch_size rows each.
        learning_rate: Adam's; in `fit` the largest.
        weight: factor of the penalty. The 0.2 of `train_at_frequency` is for rows in [0, 1], whose
            squared error is much smaller than that of rows with a spread of 1.
        tolerance: how far from rho few or tied rows may leave a unit.
        device: where to compute; None for torch's default device.
        random_state: an int or a RandomState, for the weights and the order of the rows. None
            differs each time, and does not draw from NumPy's global random state.

    Attributes:
        model_: the `SparseAutoencoder`; it takes rows as (X - mean_) / scale_.
        mean_, scale_: the mean row, and the root of the columns' mean variance, a float.
        frequencies_: (n_components,), the share of the rows on which each unit is active: all
            rows of `fit`, or those of the last `partial_fit`.
        history_: {"error": [...], "penalty": [...]}, the mean squared error of each step's batch,
            in units of scale_ squared, and the weighted penalty.
        n_iter_: number of steps.

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
        weight: float = 1.0,
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
        self.weight = weight
        self.tolerance = tolerance
        self.device = device
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: object = None) -> Self:  # noqa: ARG002
        """Learn from all rows of X (rows, columns), anew; y is ignored."""
        rows = validate_data(self, X, dtype=_DTYPES, ensure_min_samples=2)
        weights_seed, order_seed = self._seeds()
        rate, weight = self._rate_and_weight()
        scaling, start = self._untrained(rows, weights_seed)
        history = train_at_frequency(
            **start,
            steps=self.steps,
            batch_size=self.batch_size,
            lr=rate,
            weight=weight,
            seeds=[order_seed],
            value_range=None,
            observe=_check_weights,  # every 100 steps, and before the units are shifted
        )
        self._set(scaling, start, history.error.flatten(), history.penalty.flatten())
        return self._counted(start["x"])

    def partial_fit(self, X: ArrayLike, y: object = None) -> Self:  # noqa: ARG002
        """Take one step of Adam on the rows of X, as one batch, towards rho on them.

        The first call also decides mean_, scale_ and where the units start, which is at rho on
        its rows: give it some hundreds that are like those to come. After `fit` it goes on from
        what was learned. No unit is shifted to rho at the end, so that it is near rho and not at
        it; nearer with large batches, since in one of 10 rows a frequency is a multiple of a
        tenth. learning_rate is read anew each time: lower it with `set_params`.
        """
        first = not hasattr(self, "model_")
        least = 2 if first else 1
        rows = validate_data(self, X, dtype=_DTYPES, reset=first, ensure_min_samples=least)
        rate, weight = self._rate_and_weight()
        if first:
            scaling, start = self._untrained(rows, self._seeds()[0])
            start_at_frequency_(**start)
            self._set(scaling, start, torch.empty(0), torch.empty(0))
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
        """The rows (rows, columns) that a code X (rows, n_components) stands for."""
        check_is_fitted(self)
        code, units = check_array(X, dtype=_DTYPES), self._n_features_out
        if code.shape[1] != units:
            raise ValueError(f"X must have one column per unit, {units}, got {code.shape[1]}")
        rows: NDArray[Any] = self.model_.decode(_tensor(code, self.model_)).numpy(force=True)
        return np.asarray(self.scale_ * rows + self.mean_, dtype=rows.dtype)

    @torch.no_grad()
    def score(self, X: ArrayLike, y: object = None) -> float:  # noqa: ARG002
        """The share of the variance of X that is explained, 1 - `fvu`; y is ignored.

        1 is perfect, 0 no better than the mean row of X, and it can be negative. Columns weigh
        by their variance, as in scikit-learn's r2_score with multioutput="variance_weighted".
        """
        check_is_fitted(self)
        x = self._scaled(validate_data(self, X, dtype=_DTYPES, reset=False, ensure_min_samples=2))
        return 1 - fvu(self.model_(x).reconstruction, x).item()

    @property
    def _n_features_out(self) -> int:  # what get_feature_names_out counts by
        return int(self.model_.sizes[-1])

    def _seeds(self) -> list[int]:
        """For the weights, and for the order of the rows."""
        fresh = self.random_state is None  # where scikit-learn's own would use np.random
        source = np.random.RandomState() if fresh else check_random_state(self.random_state)
        return [int(seed) for seed in source.randint(np.iinfo(np.int32).max, size=2)]

    def _rate_and_weight(self) -> tuple[float, float]:
        rate = check_number("learning_rate", self.learning_rate, above=0)
        return rate, check_number("weight", self.weight, minimum=0)

    @torch.no_grad()
    def _untrained(self, rows: NDArray[Any], seed: int) -> tuple[_Scaling, dict[str, Any]]:
        """The rows' mean and scale, and the arguments of `start_at_frequency_`."""
        units, hidden = check_count("n_components", self.n_components), self.hidden_layer_sizes
        if not isinstance(hidden, Sequence):
            raise TypeError(f"hidden_layer_sizes must be a sequence of ints, got {hidden!r}")
        hidden = [check_count("hidden_layer_sizes", size) for size in hidden]
        if (rows == rows[:1]).all():
            raise ValueError("X must vary: all of its rows are equal")
        mean = rows.mean(0, dtype=np.float64)
        with np.errstate(all="ignore"):
            scale = float(np.sqrt(rows.var(0, dtype=np.float64).mean()))
        if not 0 < scale < math.inf:
            raise ValueError(f"X must vary by amounts that can be squared, got spread {scale:g}")
        model = SparseAutoencoder((rows.shape[1], *hidden, units), nn.Identity(), seed=seed)
        model.to(torch.as_tensor(np.empty(0, rows.dtype), device=self.device))
        x = _tensor((rows - mean) / scale, model)
        # More units than directions to turn them to stay as they are.
        skewed = units <= varying_directions(model.code_inputs(x))
        start = {"rho": self.rho, "skewed": skewed, "tolerance": self.tolerance}
        return (mean, scale), {"models": [model], "x": x, **start}

    def _set(
        self, scaling: _Scaling, start: dict[str, Any], error: Tensor, penalty: Tensor
    ) -> None:
        (self.mean_, self.scale_), [self.model_], self._adam = scaling, start["models"], None
        self.history_ = {"error": error.tolist(), "penalty": penalty.tolist()}

    @torch.no_grad()
    def _counted(self, x: Tensor) -> Self:
        self.frequencies_ = activation_frequency(self.model_.encode(x)).numpy(force=True)
        self.n_iter_ = len(self.history_["error"])
        return self

    def _scaled(self, rows: NDArray[Any]) -> Tensor:
        return _tensor((rows - self.mean_) / self.scale_, self.model_)


def _tensor(array: NDArray[Any], model: SparseAutoencoder) -> Tensor:
    """A copy of `array` in the dtype and on the device of the model."""
    parameter = next(model.parameters())
    return torch.tensor(array, dtype=parameter.dtype, device=parameter.device)


def _check_weights(model: nn.Module) -> None:
    if not all(weight.isfinite().all() for weight in model.parameters()):
        raise FloatingPointError("training did not stay finite: choose a smaller learning_rate")
