"""The threshold above which each latent has its own share of rows."""

import torch
from torch import Tensor

_LATENTS_AT_ONCE = 64  # bounds the memory, and sorts little


def upper_quantile(rows: Tensor, rho: Tensor) -> Tensor:
    """Half-way between the k-th and the next largest of each latent's rows; k = rho * rows."""
    units = rows.movedim(-2, -1).flatten(0, -2)  # (all latents, rows)
    count = units.shape[-1]
    kept = (rho.flatten() * count).round().long().clamp(1, count - 1)
    theta = torch.empty_like(kept, dtype=rows.dtype)
    # Latents of like frequencies together, as the largest of them decides how many are sorted.
    for some in kept.argsort().split(_LATENTS_AT_ONCE):
        k = kept[some, None]
        top = units[some].topk(int(k.max()) + 1, dim=-1).values
        last, beyond = top.gather(-1, k - 1), top.gather(-1, k)
        theta[some] = ((last + beyond) / 2).squeeze(-1)
    return theta.view_as(rho)


def common_quantile(rows: Tensor, rho: Tensor) -> Tensor:
    """One threshold (..., 1), above which all latents' rows (..., rows, L) have the mean of rho."""
    values = rows.flatten(-2)
    count = values.shape[-1]
    thresholds = []
    for own, share in zip(values.view(-1, count), rho.mean(-1).flatten().tolist(), strict=True):
        beyond = count - min(max(round(share * count), 1), count - 1)
        ends = own.kthvalue(beyond).values, own.kthvalue(beyond + 1).values
        thresholds.append((ends[0] + ends[1]) / 2)
    return torch.stack(thresholds).view(*rho.shape[:-1], 1)
