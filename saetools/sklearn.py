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

    `fit` is `train_at_frequency` on a `SparseAutoencoder` without bounds on its output. Inside,
    rows are centred and divided by one number, their spread over all columns: a column that
    varies more counts for more, as in PCA. Where columns are in different units, put a
    StandardScaler before it.

    There is no sample_weight, on purpose: a frequency is a share of rows, and a unit is on or
    off for a whole one. To have a row count twice, give it twice.

    Args:
        n_components: number of units of the code.
        rho: target frequency; a tensor (n_components,) for one per unit.
        hidden_layer_sizes: widths of the layers between the rows and the code, which the decoder
            mirrors; () for a linear encoder and decoder.
        steps: how many batches `fit` trains on, of batch_size rows each.
        learning_rate: Adam's; in `fit` the largest.
        weight: factor of the penalty; larger than for rows in [0, 1], whose squared error is
            smaller than that of rows with a spread of 1.
        tolerance: how far from rho few or tied rows may leave a unit.
        device: where to compute; None for torch's default device.
        random_state: an int or a RandomState, for the weights and the order of the rows. None
            differs each time, and does not draw from NumPy's global random state.

    Attributes:
        model_: the `SparseAutoencoder`; it takes rows as (X - mean_) / scale_.
        mean_, scale_: the mean row, and the root of the columns' mean variance, a float.
        frequencies_: each unit's share of active rows, among those of the last fit or partial_fit.
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
        weights_seed, order_seed = self._seeds()
        scaling, start = self._untrained(X, weights_seed)
        history = train_at_frequency(
            **start,
            steps=self.steps,
            batch_size=self.batch_size,
            lr=check_number("learning_rate", self.learning_rate, above=0),
            weight=check_number("weight", self.weight, minimum=0),
            seeds=[order_seed],
            value_range=None,
            observe=_check_weights,  # every 100 steps, and before the units are shifted
        )
        self._begin(scaling, start)
        return self._go_on(start["x"], history.error, history.penalty)

    def partial_fit(self, X: ArrayLike, y: object = None) -> Self:  # noqa: ARG002
        """Take one step of Adam on the rows of X, as one batch, towards rho on them.

        The first call also decides mean_, scale_ and where the units start, at rho on its rows:
        give it some hundreds that are like those to come. After `fit` it goes on from there.
        Units are not shifted to rho at the end, and come near it, the nearer the larger the
        batches. learning_rate is read anew each time: lower it with `set_params`.
        """
        rate = check_number("learning_rate", self.learning_rate, above=0)
        weight = check_number("weight", self.weight, minimum=0)
        if hasattr(self, "model_"):
            x = self._scaled(X)
        else:
            scaling, start = self._untrained(X, self._seeds()[0])
            start_at_frequency_(**start)
            self._begin(scaling, start)
            x = start["x"]
        self._adam = self._adam or torch.optim.Adam(self.model_.parameters(), fused=True)
        self._adam.param_groups[0]["lr"] = rate
        output = self.model_(x)
        error = mse_loss(output.reconstruction, x)
        cost = weight * frequency_penalty(output.pre_activations, rho=self.rho)
        loss = error + cost
        if not loss.isfinite():
            raise FloatingPointError(f"the loss is {loss.item()}, and no step was taken")
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()
        _check_weights(self.model_)
        return self._go_on(x, error, cost)

    @torch.no_grad()
    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """The code (rows, n_components) of X (rows, columns): 0 where a unit is not active."""
        x = self._scaled(X)
        code: NDArray[Any] = self.model_.encode(x).relu().numpy(force=True)
        return code

    @torch.no_grad()
    def inverse_transform(self, X: ArrayLike) -> NDArray[Any]:
        """The rows (rows, columns) that a code X (rows, n_components) stands for."""
        check_is_fitted(self)
        code, units = check_array(X, dtype=_DTYPES), self._n_features_out
        if code.shape[1] != units:
            raise ValueError(f"X must have one column per unit, {units}, got {code.shape[1]}")
        latents = next(self.model_.parameters()).new_tensor(code)
        rows: NDArray[Any] = self.model_.decode(latents).numpy(force=True)
        return np.asarray(self.scale_ * rows + self.mean_, dtype=rows.dtype)

    @torch.no_grad()
    def score(self, X: ArrayLike, y: object = None) -> float:  # noqa: ARG002
        """1 - `fvu`, which is r2_score with multioutput="variance_weighted"; y is ignored."""
        x = self._scaled(X, ensure_min_samples=2)
        return 1 - fvu(self.model_(x).reconstruction, x).item()

    @property
    def _n_features_out(self) -> int:  # get_feature_names_out asks for it
        return int(self.model_.sizes[-1])

    def _seeds(self) -> list[int]:
        """For the weights, and for the order of the rows."""
        fresh = self.random_state is None  # where scikit-learn's own would use np.random
        source = np.random.RandomState() if fresh else check_random_state(self.random_state)
        return [int(seed) for seed in source.randint(np.iinfo(np.int32).max, size=2)]

    @torch.no_grad()
    def _untrained(self, X: ArrayLike, seed: int) -> tuple[_Scaling, dict[str, Any]]:
        """Mean and scale of the rows, and the arguments of `start_at_frequency_`."""
        rows = validate_data(self, X, dtype=_DTYPES, ensure_min_samples=2)
        units, hidden = check_count("n_components", self.n_components), self.hidden_layer_sizes
        if not isinstance(hidden, Sequence):
            raise TypeError(f"hidden_layer_sizes must be a sequence of ints, got {hidden!r}")
        hidden = [check_count("hidden_layer_sizes", size) for size in hidden]
        mean = rows.mean(0, dtype=np.float64)
        with np.errstate(all="ignore"):
            scale = float(np.sqrt(rows.var(0, dtype=np.float64).mean()))
        if not 0 < scale < math.inf or (rows == rows[:1]).all():
            raise ValueError(f"X must vary by amounts that can be squared, got spread {scale:g}")
        model = SparseAutoencoder((rows.shape[1], *hidden, units), nn.Identity(), seed=seed)
        model.to(torch.as_tensor(np.empty(0, rows.dtype), device=self.device))
        x = next(model.parameters()).new_tensor((rows - mean) / scale)
        # More units than directions to turn them to stay as they are.
        skewed = units <= varying_directions(model.code_inputs(x))
        start = {"models": [model], "x": x, "rho": self.rho, "skewed": skewed}
        return (mean, scale), start | {"tolerance": self.tolerance}

    def _begin(self, scaling: _Scaling, start: dict[str, Any]) -> None:
        (self.mean_, self.scale_), [self.model_], self._adam = scaling, start["models"], None
        self.history_: dict[str, list[float]] = {"error": [], "penalty": []}

    @torch.no_grad()
    def _go_on(self, x: Tensor, error: Tensor, penalty: Tensor) -> Self:
        self.history_["error"] += error.flatten().tolist()
        self.history_["penalty"] += penalty.flatten().tolist()
        self.n_iter_ = len(self.history_["error"])
        self.frequencies_ = activation_frequency(self.model_.encode(x)).numpy(force=True)
        return self

    def _scaled(self, X: ArrayLike, **checks: Any) -> Tensor:
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=_DTYPES, reset=False, **checks)
        x: Tensor = next(self.model_.parameters()).new_tensor((rows - self.mean_) / self.scale_)
        return x


def _check_weights(model: nn.Module) -> None:
    if not all(weight.isfinite().all() for weight in model.parameters()):
        raise FloatingPointError("training did not stay finite: choose a smaller learning_rate")
