"""What the activations have in common that keep numbers per latent: their rows, and their dtype."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from saetools.data.checks import check_count, check_rho


class PerLatent(nn.Module):
    """A module whose parameters and buffers have the latents last: (L,), or (N, L) in an ensemble.

    Then of pre-activations (N, ..., L) the dims between are rows, otherwise all but the last.
    Its buffers stay in float32 or better whatever the model is cast to, as a threshold that moves
    by less than bfloat16 resolves would stand still.
    """

    stackable = True  # by `train_ensemble`, which puts a dim of members first

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = self._buffers[name]
            if old is None or new is None or not old.is_floating_point():
                continue
            exact = torch.promote_types(new.dtype, torch.float32)
            if new.dtype != exact:
                self._buffers[name] = old.to(new.device, exact)
        return self


def rows_of(z: Tensor, state: Tensor) -> Tensor:
    """z (..., L) as (rows, L), or as (N, rows, L) where the state is (N, L)."""
    members, shape = state.ndim - 1, tuple(z.shape)
    if z.ndim < state.ndim + 1 or (*shape[:members], shape[-1]) != tuple(state.shape):
        units = f"{state.shape[-1]} latents, its last dim"
        first = f", and {state.shape[0]} members, its first" if members else ""
        advice = ": put the channels last, z.movedim(1, -1)" if len(shape) > 2 else ""
        raise ValueError(f"pre_activations must have {units}{first}, got shape {shape}{advice}")
    return z.flatten(members, -2)


def against(state: Tensor, z: Tensor) -> Tensor:
    """The state, (L,) or (N, L), in the shape in which it is broadcast against z."""
    if state.ndim == 1:
        return state
    return state.view(len(state), *[1] * (z.ndim - 2), -1)


def rho_per_latent(latents: object, rho: Any) -> Tensor:
    """The checked targets as a float32 tensor (L,), or (N, L) where rho has a dim of members."""
    width = check_count("latents", latents)
    device = rho.device if isinstance(rho, Tensor) else None
    like = torch.empty(0, dtype=torch.float32, device=device)
    target = check_rho(rho, like=like, shape=(width,))
    if target.ndim > 2:
        raise ValueError(f"rho must be one number, (L,) or (N, L), got shape {tuple(target.shape)}")
    return target.expand(*target.shape[:-1], width).clone()


def recomputing() -> bool:
    """Whether this forward pass is activation checkpointing's second one, in a backward pass."""
    # Traced code has no second pass of its own: torch.compile knows what it recomputes.
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
