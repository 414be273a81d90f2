"""A scikit-learn transformer around `train_at_frequency` (needs scikit-learn)."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from saetools.data.checks import check_count, check_number, needs
from saetools.frequency import activation_frequency
from saetools.metrics import fvu
from saetools.penalties import frequency_penalty
from saetools.training.models import SparseAutoencoder
from saetools.training.recipe import train_at_frequency
from saetools.training.start import start_at_frequency_

with needs("scikit-learn", extra="sklearn"):
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils import check_array, check_random_state, validation

# A method before scikit-learn 1.6.
validate_data = getattr(validation, "validate_data", None) or BaseEstimator._validate_data
_DTYPES = (np.float64, np.float32)  # other numbers become the first of them


class SparseAutoencoderTransformer(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """Rows as a sparse code in which each unit is active on a share rho of the training rows.

    `fit` is `train_at_frequency` on a `SparseAutoencoder` without bounds on its output, on rows
    that are centred and divided by one number, their spread over all columns. A column that varies
    more counts for more, as in PCA: where units differ, put a StandardScaler before it.
    There is no sample_weight, on purpose: a frequency is a share of rows; give a row twice instead.

    Args:
        n_components: number of units of the code.
        rho: target frequency; a tensor (n_components,) for one per unit.
        hidden_layer_sizes: widths between the rows and the code, mirrored; () for linear layers.
        steps, batch_size, learning_rate, weight, tolerance: as for `train_at_frequency`; the weight
            is larger than for rows in [0, 1], whose errors are smaller.
        random_state: an int or a RandomState, for the weights and the order of the rows. None
            differs each time, and does not draw from NumPy's global random state.

    Attributes:
        model_: the `SparseAutoencoder`; it takes rows as `(X - mean_) / scale_`.
        `mean_`, `scale_`: the mean row, and the root of the columns' mean variance, a float.
        frequencies_: each unit's share of active rows, among those of the last fit or partial_fit.
        history_: {"error": [...], "penalty": [...]} of `n_iter_` steps; errors in `scale_` squared.

    Example:
        >>> from saetools import sparse_mixture
        >>> X = 1000 * sparse_mixture(1000, seed=0).train.numpy() - 70
        >>> sae = SparseAutoencoderTransformer(4, rho=0.15, steps=140, random_state=0)
        >>> (sae.fit_transform(X) > 0).mean(0).round(2).tolist(), sae.score(X) > 0.5
        ([0.15, 0.15, 0.15, 0.15], True)
    """

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
        tolerance: float | None = None,
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
        learned, start, seed = self._untrained(X)
        history = train_at_frequency(
            **start,
            steps=self.steps,
            batch_size=self.batch_size,
            lr=check_number("learning_rate", self.learning_rate, above=0),
            weight=check_number("weight", self.weight, minimum=0),
            seeds=[seed],
            value_range=None,
            observe=_check_weights,  # every 100 steps, and before the units are shifted
        )
        self.__dict__.update(learned)
        return self._report(start["x"], history.error, history.penalty)

    def partial_fit(self, X: ArrayLike, y: object = None) -> Self:  # noqa: ARG002
        """Take one step of Adam on the rows of X, as one batch, towards rho on them.

        The first call, unless after `fit`, also decides `mean_`, `scale_` and where units start:
        give it some hundreds of rows like those to come. Units come near rho, the nearer the larger
        the batches. learning_rate and weight may be changed in between.
        """
        rate = check_number("learning_rate", self.learning_rate, above=0)
        weight = check_number("weight", self.weight, minimum=0)
        if not hasattr(self, "model_"):
            learned, start, _ = self._untrained(X)
            start_at_frequency_(**start)
            self.__dict__.update(learned)
        x = self._scaled(X)
        output = self.model_(x)
        error = nn.functional.mse_loss(output.reconstruction, x)
        cost = frequency_penalty(output.pre_activations, rho=self.rho, weight=weight)
        loss = error + cost
        if not loss.isfinite():
            raise FloatingPointError(f"the loss is {loss.item()}, and no step was taken")
        self._adam.param_groups[0]["lr"] = rate
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()
        _check_weights(self.model_)
        return self._report(x, error, cost)

    @torch.no_grad()
    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """The code (rows, n_components) of X (rows, columns): 0 where a unit is not active."""
        x = self._scaled(X)  # before model_ is asked for, as it says that fit is to come first
        code: NDArray[Any] = self.model_.encode(x).relu().numpy(force=True)
        return code

    @torch.no_grad()
    def inverse_transform(self, X: ArrayLike) -> NDArray[Any]:
        """The rows (rows, columns) that a code X (rows, n_components) stands for."""
        validation.check_is_fitted(self)
        code, units = check_array(X, dtype=_DTYPES), self._n_features_out
        if code.shape[1] != units:
            raise ValueError(f"X must have one column per unit, {units}, got {code.shape[1]}")
        latents = next(self.model_.parameters()).new_tensor(code)
        rows = self.model_.decode(latents).numpy(force=True)
        return np.asarray(self.scale_ * rows + self.mean_, dtype=rows.dtype)

    @torch.no_grad()
    def score(self, X: ArrayLike, y: object = None) -> float:  # noqa: ARG002
        """1 - `fvu`, which is r2_score with multioutput="variance_weighted"; y is ignored."""
        x = self._scaled(X, ensure_min_samples=2)
        return 1 - fvu(self.model_(x).reconstruction, x).item()

    @torch.no_grad()
    def _untrained(self, X: ArrayLike) -> tuple[dict[str, Any], dict[str, Any], int]:
        """Attributes to begin with, arguments of `start_at_frequency_`, a seed for the training."""
        rows = validate_data(self, X, dtype=_DTYPES, ensure_min_samples=2)
        units, hidden = check_count("n_components", self.n_components), self.hidden_layer_sizes
        if not isinstance(hidden, Sequence):
            raise TypeError(f"hidden_layer_sizes must be a sequence of ints, got {hidden!r}")
        hidden = [check_count("hidden_layer_sizes", size) for size in hidden]
        fresh = self.random_state is None  # where scikit-learn's own would use np.random
        source = np.random.RandomState() if fresh else check_random_state(self.random_state)
        seed, seed_of_order = source.randint(np.iinfo(np.int32).max, size=2).tolist()
        mean = rows.mean(0, dtype=np.float64)
        with np.errstate(all="ignore"):
            scale = float(np.sqrt(rows.var(0, dtype=np.float64).mean()))
        if not 0 < scale < np.inf or (rows == rows[:1]).all():
            raise ValueError(f"X must vary by amounts that can be squared, got spread {scale:g}")
        model = SparseAutoencoder((rows.shape[1], *hidden, units), nn.Identity(), seed=seed)
        model.to(torch.as_tensor(np.empty(0, rows.dtype), device=self.device))
        x = next(model.parameters()).new_tensor((rows - mean) / scale)
        start = {"models": [model], "x": x, "rho": self.rho}
        learned = {"model_": model, "mean_": mean, "scale_": scale, "_n_features_out": units}
        learned["history_"] = {"error": [], "penalty": []}
        learned["_adam"] = torch.optim.Adam(model.parameters(), fused=True)  # of partial_fit
        return learned, start | {"tolerance": self.tolerance}, seed_of_order

    def _scaled(self, X: ArrayLike, **checks: Any) -> Tensor:
        validation.check_is_fitted(self)
        rows = validate_data(self, X, dtype=_DTYPES, reset=False, **checks)
        x: Tensor = next(self.model_.parameters()).new_tensor((rows - self.mean_) / self.scale_)
        return x

    @torch.no_grad()
    def _report(self, x: Tensor, error: Tensor, penalty: Tensor) -> Self:
        self.history_["error"] += error.flatten().tolist()
        self.history_["penalty"] += penalty.flatten().tolist()
        self.n_iter_ = len(self.history_["error"])
        self.frequencies_ = activation_frequency(self.model_.encode(x)).numpy(force=True)
        return self


def _check_weights(model: nn.Module) -> None:
    if not all(weight.isfinite().all() for weight in model.parameters()):
        raise FloatingPointError("training did not stay finite: choose a smaller learning_rate")
