"""Measurement, without a gradient."""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from saetools.data.checks import check_finite, check_like, check_number, check_tensor
from saetools.frequency import activation_frequency
from saetools.reuse.distributed import count_ranks


@torch.no_grad()
def fvu(reconstruction: Tensor, x: Tensor) -> Tensor:
    """Fraction of variance unexplained: squared error over the variance around the mean row.

    0 is perfect; 1 is no better than the mean of x over its rows; it can exceed 1.

    Args:
        reconstruction: (..., B, D).
        x: (B, D) or (..., B, D), at least two rows that differ.

    Returns:
        (...), one value for each leading index, a scalar tensor where there is none; float32 or
        better.

    Raises:
        TypeError: if either is not a floating tensor.
        ValueError: if the shapes do not match, a value is not finite, x does not vary, or the
            squares of values overflow or vanish.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> fvu(x, x).item(), fvu(torch.full_like(x, 0.5), x).item()
        (0.0, 1.0)
    """
    check_tensor("reconstruction", reconstruction, dims=2)
    check_finite("x", check_tensor("x", x, dims=2, rows=2))
    check_finite("reconstruction", reconstruction)
    if reconstruction.shape[-2:] != x.shape[-2:]:
        raise ValueError(
            f"reconstruction must have the shape of x, {tuple(x.shape)}, "
            f"got {tuple(reconstruction.shape)}"
        )
    if (x == x[..., :1, :]).all(-1).all(-1).any():
        raise ValueError("x must vary: all of its rows are equal, so there is nothing to explain")
    exact = torch.promote_types(x.dtype, torch.float32)  # squares overflow in float16
    x, reconstruction = x.to(exact), reconstruction.to(exact)
    variance = (x - x.mean(-2, keepdim=True)).square().sum((-2, -1))
    unexplained = (reconstruction - x).square().sum((-2, -1)) / variance
    if not unexplained.isfinite().all():  # the squares were too large or too small
        raise ValueError(
            f"x and reconstruction must have squares that fit into {exact}, got values up to "
            f"{torch.stack([x.abs().max(), reconstruction.abs().max()]).max():.2g}: scale both"
        )
    return unexplained


@torch.no_grad()
def l0(pre_activations: Tensor) -> Tensor:
    """Mean number of active units per row.

    Args:
        pre_activations: (..., B, L); a unit is active where it is > 0.

    Returns:
        (...), in [0, L]. NaN counts as not active.

    Raises:
        TypeError, ValueError: as activation_frequency does.

    Example:
        >>> l0(torch.tensor([[1.0, -1.0], [2.0, 3.0]])).item()
        1.5
    """
    return activation_frequency(pre_activations).sum(-1)


@torch.no_grad()
def dead_latents(rho_hat: Tensor) -> Tensor:
    """Which units are never active on the data behind `rho_hat`.

    Args:
        rho_hat: activation frequencies (..., L) in [0, 1].

    Returns:
        (..., L), bool.

    Raises:
        TypeError, ValueError: if rho_hat is not a floating tensor with at least one dim.

    Example:
        >>> dead_latents(torch.tensor([0.0, 0.2, 1.0]))
        tensor([ True, False, False])
    """
    return check_tensor("rho_hat", rho_hat, dims=1) == 0


@torch.no_grad()
def dense_latents(rho_hat: Tensor, *, above: float = 0.99) -> Tensor:
    """Which units are active on more than a share `above` of the data behind `rho_hat`.

    Args:
        rho_hat: activation frequencies (..., L) in [0, 1].
        above: the share, in [0, 1), beyond which a unit tells nothing by being active.

    Returns:
        (..., L), bool.

    Raises:
        TypeError, ValueError: if an argument is not as above.

    Example:
        >>> dense_latents(torch.tensor([0.0, 0.2, 1.0]))
        tensor([False, False,  True])
    """
    if not 0 <= check_number("above", above) < 1:
        raise ValueError(f"above must lie in [0, 1), got {above}")
    return check_tensor("rho_hat", rho_hat, dims=1) > above


class FrequencyMeter:
    """The activation frequency of each unit over data that comes in pieces.

    It counts rows, so pieces of unequal size weigh by what they hold. Counts are integers, and
    exact; those of several meters, in one process or many, are added.

    Example:
        >>> meter = FrequencyMeter()
        >>> meter.update(torch.tensor([[1.0, -1.0], [2.0, -3.0], [1.0, 1.0]]))
        >>> meter.update(torch.tensor([[-1.0, -1.0]]))
        >>> meter.compute()
        tensor([0.7500, 0.2500])
    """

    def __init__(self) -> None:
        self.active: Tensor | None = None  # (..., L), active rows of each unit so far
        self.rows = 0

    @torch.no_grad()
    def update(self, pre_activations: Tensor) -> None:
        """Count the rows of `pre_activations`, (..., B, L).

        Raises:
            TypeError: if it is not a floating tensor.
            ValueError: if it is empty, is not finite, or its shape but for B has changed.
        """
        check_finite("pre_activations", check_tensor("pre_activations", pre_activations, dims=2))
        self._add("pre_activations", (pre_activations > 0).sum(-2), pre_activations.shape[-2])

    def merge(self, other: "FrequencyMeter") -> None:
        """Add what `other` has counted; it stays as it is.

        Raises:
            TypeError: if it is not a FrequencyMeter.
            ValueError: if it has counted other units.
        """
        if not isinstance(other, FrequencyMeter):
            raise TypeError(f"other must be a FrequencyMeter, got {type(other).__name__}")
        if other.active is not None:
            self._add("other", other.active, other.rows)

    def over_ranks(self, group: "dist.ProcessGroup | None" = None) -> "FrequencyMeter":
        """A new meter with what the meters of all processes have counted, the same on each.

        This one stays as it is, so that it may go on and be asked again. Every process of the
        group makes the call, one that has counted nothing as well. Without torch.distributed,
        or before it is initialised, the new meter is a copy.

        Args:
            group: the processes, by default all of them.

        Raises:
            ValueError: if the processes have counted different units, or this one is not in
                group.
        """
        counts = [(self.active, self.rows)]
        if (ranks := count_ranks(group)) > 1:
            # As objects, as a process that has counted nothing does not know the units' shape.
            mine = None if self.active is None else self.active.tolist()
            counts = [(None, 0)] * ranks
            dist.all_gather_object(counts, (mine, self.rows), group=group)
        merged = FrequencyMeter()
        for active, rows in counts:
            if active is not None:
                device = None if self.active is None else self.active.device
                merged._add("group", torch.as_tensor(active, device=device), rows)
        return merged

    def _add(self, name: str, active: Tensor, rows: int) -> None:
        if self.active is not None and self.active.shape != active.shape:
            raise ValueError(
                f"{name} must keep the units of the first update, "
                f"{tuple(self.active.shape)}, got {tuple(active.shape)}"
            )
        self.active = active if self.active is None else self.active + active.to(self.active.device)
        self.rows += rows

    def compute(self) -> Tensor:
        """Frequencies (..., L) in [0, 1].

        Raises:
            RuntimeError: if nothing was counted yet.
        """
        if self.active is None:
            raise RuntimeError("FrequencyMeter.compute() needs at least one update() before it")
        return self.active / self.rows


class Evaluation(NamedTuple):
    """How a model does on one set of rows."""

    fvu: float
    frequency: Tensor  # (L,)


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor) -> Evaluation:
    """Reconstruction and hard frequencies of `model` on all rows of x (B, D).

    The model is in evaluation mode meanwhile (no dropout), and as it was afterwards.

    Args:
        model: returns an `Output` for x.
        x: (B, D), at least two rows that differ, on the model's device.

    Returns:
        Evaluation(fvu, frequency (L,)).

    Raises:
        TypeError, ValueError: if x is not as above, or what the model returns is not finite.

    Example:
        >>> from saetools import SparseAutoencoder
        >>> evaluate(SparseAutoencoder(seed=0), torch.rand(50, 20)).frequency.shape
        torch.Size([4])
    """
    check_finite("x", check_like("x", check_tensor("x", x, dims=2, rows=2), model))
    if x.ndim != 2:
        raise ValueError(f"x must have 2 dims, (rows, D), got shape {tuple(x.shape)}")
    modes = [(module, module.training) for module in model.modules()]
    try:
        output = model.eval()(x)
    finally:
        for module, training in modes:
            module.training = training
    check_finite("the model's pre_activations", output.pre_activations)
    return Evaluation(
        fvu(output.reconstruction, x).item(), activation_frequency(output.pre_activations)
    )


class Match(NamedTuple):
    """Units paired with factors, one to one."""

    mean: float  # of the phi coefficients of the pairs, in [-1, 1]
    units: Tensor  # (P,), P = min(L, K)
    factors: Tensor  # (P,)
    phi: Tensor  # (L, K), of every unit with every factor


@torch.no_grad()
def phi_coefficients(pre_activations: Tensor, factors: Tensor) -> Tensor:
    """Correlation between "the unit is active" and "the factor is on", for each pair.

    Args:
        pre_activations: (B, L); a unit is active where it is > 0.
        factors: (B, K), for the same rows; a factor is on where it is > 0.

    Returns:
        (L, K) in [-1, 1], float64 on the CPU; 0 for a unit or a factor that is always or never on.

    Raises:
        TypeError, ValueError: if an argument is not as above.

    Source: the phi coefficient, Pearson's correlation of two binary variables.

    Example:
        >>> z = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
        >>> factors = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
        >>> phi_coefficients(z, factors).tolist()
        [[1.0, 0.0]]
    """
    for name, value in (("pre_activations", pre_activations), ("factors", factors)):
        if check_finite(name, check_tensor(name, value, dims=2)).ndim != 2:
            raise ValueError(f"{name} must have 2 dims, got shape {tuple(value.shape)}")
    if len(pre_activations) != len(factors):
        raise ValueError(
            f"factors must have the rows of pre_activations, {len(pre_activations)}, "
            f"got {len(factors)}"
        )
    active, on = ((value > 0).to("cpu", torch.float64) for value in (pre_activations, factors))
    active, on = active - active.mean(0), on - on.mean(0)
    scale = active.norm(dim=0)[:, None] * on.norm(dim=0)
    return torch.where(scale > 0, active.T @ on / scale, 0.0)


def match_factors(pre_activations: Tensor, factors: Tensor) -> Match:
    """Pair units with factors, one to one, so that the mean phi coefficient is largest.

    Args:
        pre_activations: as for `phi_coefficients`.
        factors: as for `phi_coefficients`.

    Returns:
        Match.

    Raises:
        TypeError, ValueError: as `phi_coefficients` does.

    Source: the Hungarian method, through scipy.optimize.linear_sum_assignment.

    Example:
        >>> factors = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
        >>> match = match_factors(factors.flip(1) - 0.5, factors)
        >>> round(match.mean, 6), match.factors.tolist()
        (1.0, [1, 0])
    """
    from scipy.optimize import linear_sum_assignment  # optional: the rest does without SciPy

    phi = phi_coefficients(pre_activations, factors)
    units, paired = (
        torch.as_tensor(index) for index in linear_sum_assignment(phi.numpy(), maximize=True)
    )
    return Match(phi[units, paired].mean().item(), units, paired, phi)
