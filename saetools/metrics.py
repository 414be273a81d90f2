"""Measurement, without a gradient."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from saetools.data.checks import (
    check_finite,
    check_like,
    check_number,
    check_output,
    check_rows,
    check_tensor,
)
from saetools.frequency import activation_frequency, in_single


@torch.no_grad()
def fvu(reconstruction: Tensor, x: Tensor) -> Tensor:
    """Fraction of variance unexplained: squared error over the variance around the mean row.

    0 is perfect; 1 is no better than the mean of x over its rows; it can exceed 1. For a
    reconstruction (..., B, D) of x, (B, D) or (..., B, D), it is (...), float32 or better. x must
    have two rows that differ, and squares that are finite.

    Example:
        >>> fvu(torch.full((2, 2), 0.5), torch.eye(2))
        tensor(1.)
    """
    check_finite("reconstruction", check_tensor("reconstruction", reconstruction, dims=2))
    check_finite("x", check_tensor("x", x, dims=2, rows=2))
    if reconstruction.shape[-2:] != x.shape[-2:]:
        shapes = f"{tuple(x.shape)}, got {tuple(reconstruction.shape)}"
        raise ValueError(f"reconstruction must have the shape of x, {shapes}")
    if (x == x[..., :1, :]).flatten(-2).all(-1).any():
        raise ValueError("x must vary: all of its rows are equal, so there is nothing to explain")
    exact = torch.promote_types(x.dtype, torch.float32)  # squares overflow in float16
    x, reconstruction = x.to(exact), reconstruction.to(exact)
    variance = (x - x.mean(-2, keepdim=True)).square().sum((-2, -1))
    unexplained = (reconstruction - x).square().sum((-2, -1)) / variance
    if not unexplained.isfinite().all():  # the squares were too large or too small
        largest = max(x.abs().max().item(), reconstruction.abs().max().item())
        got = f"got values up to {largest:.2g}: scale both"
        raise ValueError(f"x and reconstruction must have squares that fit into {exact}, {got}")
    return unexplained


def l0(pre_activations: Tensor) -> Tensor:
    """Mean number of active units per row, (...), of pre_activations (..., B, L)."""
    return activation_frequency(pre_activations).sum(-1)


def dead_latents(rho_hat: Tensor) -> Tensor:
    """Which units are never active, as bools, by their frequencies rho_hat (..., L)."""
    return _check_shares(rho_hat) == 0


def dense_latents(rho_hat: Tensor, *, above: float = 0.99) -> Tensor:
    """Which units are active on more than a share `above`, in [0, 1), of the rows, as bools."""
    check_number("above", above, minimum=0, below=1)
    return _check_shares(rho_hat) > above


def _check_shares(rho_hat: Tensor) -> Tensor:
    check_tensor("rho_hat", rho_hat, dims=1)
    if (wrong := rho_hat[(rho_hat < 0) | (rho_hat > 1)]).numel() > 0:
        got = f"got {wrong[0].item():.3g}: of pre-activations activation_frequency is one"
        raise ValueError(f"rho_hat must hold frequencies in [0, 1], {got}")
    return rho_hat


def usage_perplexity(rho_hat: Tensor) -> Tensor:
    """How many units would share the load evenly to be as varied: exp of the load's entropy.

    (...), from 1, all on one unit, to L, all alike, of frequencies or counts rho_hat (..., L) >= 0,
    not all 0: of codes, experts. Source: van den Oord et al. 2017 (VQ-VAE), arXiv 1711.00937.

    Example:
        >>> usage_perplexity(torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0]]))
        tensor([4., 2.])
    """
    check_finite("rho_hat", check_tensor("rho_hat", rho_hat, dims=1))
    total = in_single(rho_hat).sum(-1, keepdim=True)
    if (rho_hat < 0).any() or (total == 0).any():
        raise ValueError(f"rho_hat must be >= 0, and not all 0, got {rho_hat}")
    share = rho_hat / total
    return torch.exp(-torch.xlogy(share, share).sum(-1))


class FrequencyMeter:
    """The activation frequency of each unit over data that comes in pieces, counted by rows.

    Example:
        >>> meter = FrequencyMeter()
        >>> for piece in torch.tensor([[1.0, -1.0], [2.0, -3.0], [1.0, 1.0]]), -torch.ones(1, 2):
        ...     meter.update(piece)
        >>> meter.compute()
        tensor([0.7500, 0.2500])
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was counted, as between two epochs."""
        self.active: Tensor | None = None  # (..., L), active rows of each unit so far
        self.rows = 0

    def state_dict(self) -> dict[str, Tensor | int | None]:
        """The counts, for torch.save."""
        return {"active": self.active, "rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.active, self.rows = state["active"], state["rows"]

    @torch.no_grad()
    def update(self, pre_activations: Tensor) -> None:
        """Count the rows of `pre_activations`, (..., B, L), finite."""
        check_finite("pre_activations", check_tensor("pre_activations", pre_activations, dims=2))
        self._add("pre_activations", (pre_activations > 0).sum(-2), pre_activations.shape[-2])

    def over_ranks(self, group: "dist.ProcessGroup | None" = None) -> "FrequencyMeter":
        """A new meter, the same on all processes, with what the meters of all have counted.

        Each makes the call, even if it has counted nothing. Without torch.distributed: a copy.
        """
        ranks = count_ranks(group)
        counts = [(self.active, self.rows)] * ranks
        if ranks > 1:  # as objects: one that has counted nothing does not know the units' shape
            mine = None if self.active is None else self.active.cpu()
            dist.all_gather_object(counts, (mine, self.rows), group=group)
        pooled = FrequencyMeter()
        for active, rows in counts:
            if active is not None:
                here = active if self.active is None else active.to(self.active.device)
                pooled._add("group", here, rows)
        return pooled

    def _add(self, name: str, active: Tensor, rows: int) -> None:
        if self.active is not None and self.active.shape != active.shape:
            shapes = f"{tuple(self.active.shape)}, got {tuple(active.shape)}"
            raise ValueError(f"{name} must keep the units of the first update, {shapes}")
        self.active = active if self.active is None else self.active + active.to(self.active.device)
        self.rows += rows

    def compute(self) -> Tensor:
        """Frequencies (..., L) in [0, 1]; a RuntimeError before the first update."""
        if self.active is None:
            raise RuntimeError("FrequencyMeter.compute() needs at least one update() before it")
        return self.active / self.rows


def count_ranks(group: "dist.ProcessGroup | None") -> int:
    """The number of processes in a group that holds this one; 1 without torch.distributed."""
    ranks = dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1
    if ranks < 1:
        raise ValueError("group must hold this process, got one that does not")
    return ranks


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Have a model in evaluation mode (no dropout) meanwhile, each module as it was afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


class Evaluation(NamedTuple):
    """How a model does on one set of rows: its FVU, and each unit's hard frequency."""

    fvu: float
    frequency: Tensor  # (L,)


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor) -> Evaluation:
    """How `model` does on the rows of x (B, D), at least two that differ.

    What it returns for x has `reconstruction` and `pre_activations`, as `Output` does. If it has
    `latents` as well, a unit is active where its latent is not 0, else where its pre-activation is
    > 0. The model is in evaluation mode meanwhile (no dropout), and as it was afterwards.

    Example:
        >>> from saetools import SparseAutoencoder
        >>> evaluate(SparseAutoencoder(seed=0), torch.rand(50, 20)).frequency.shape
        torch.Size([4])
    """
    check_finite("x", check_like("x", check_rows("x", x, least=2), model))
    with evaluation_mode(model):
        remedy = "measure it with fvu and activation_frequency"
        output = check_output(model(x), "pre_activations", remedy)
    check_finite("the model's pre_activations", output.pre_activations)
    latents = getattr(output, "latents", None)
    counted = output.pre_activations if latents is None else latents.abs()
    frequency = activation_frequency(counted)
    return Evaluation(fvu(output.reconstruction, x).item(), frequency)
