"""A threshold per latent that follows the frequency asked for: sparsity without a penalty."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from saetools.activations.band import Band, band_moves, check_band, limits
from saetools.activations.law import bounded_mean
from saetools.activations.quantile import common_quantile, upper_quantile
from saetools.activations.state import PerLatent, against, recomputing, rho_per_latent, rows_of
from saetools.data.checks import check_finite, check_number, check_tensor
from saetools.frequency import BatchMean, in_single

_SPREAD_RATE = 0.05  # of the running spread, per batch
_FREQUENCY_RATE = 0.03  # of the running frequency
_MOST_MISS = 5.0  # a latent that fires far too often is raised no faster than this
_SAMPLED = 128  # rows, at the least, from which a batch's spread is taken


class FrequencyThreshold(PerLatent):
    """Passes z where z > theta, and 0 elsewhere; theta follows each latent's (1 - rho) quantile.

    With each training batch theta += rate * spread * (f / rho - 1), where f is the share of the
    batch's rows above theta. No penalty is needed, and no gradient reaches theta. What passes is z
    itself, not z - theta. In evaluation mode thresholds stand still. A latent is active where it is
    not 0: a threshold may be negative.

    The relatives: the bias of Földiák 1990, Forming sparse representations by local anti-Hebbian
    learning; homeostasis in sparse coding, Perrinet 2010, arXiv 0706.3177; Chen et al. 2025, Group
    Bias Adaptation, arXiv 2506.14002.

    Args:
        latents: L.
        rho: the share of rows on which a latent is to be active, in (0, 1); a tensor (L,) for one
            each, such as a `frequency_law`; (N, L) for an ensemble (N, B, L).
        band: at least 1, such as 5. All latents then have one threshold, which keeps the mean of
            rho; one whose running frequency leaves [mean / band, 1/2] gets an offset from it, which
            leaks away when it is back. (below, above) is [mean / below, above * mean]. `adopt` ends
            this: it prescribes the frequencies found, best late in training.
        rate: > 0, of each batch's move, in spreads.
        batch_mean: makes a whole batch's mean from a process's own and its rows: `over_ranks`.

    Buffers: theta, rho, spread, offset and frequency, the running one, each (L,); and `free`, 1
    under a band until `adopt`, otherwise 0.

    Gradient accumulation needs `whole_batch`. Activation checkpointing counts a batch once.

    Example:
        >>> threshold, z = FrequencyThreshold(3, rho=0.1), torch.randn(1000, 3)
        >>> threshold.start(z)(z).ne(0).float().mean(0)
        tensor([0.1000, 0.1000, 0.1000])
    """

    theta: Tensor
    rho: Tensor
    spread: Tensor
    frequency: Tensor
    offset: Tensor
    free: Tensor
    sums: Tensor

    def __init__(
        self,
        latents: int,
        rho: float | Tensor,
        *,
        band: float | Band | None = None,
        rate: float = 0.02,
        batch_mean: BatchMean | None = None,
    ) -> None:
        super().__init__()
        target = rho_per_latent(latents, rho)
        self.band = None if band is None else check_band(band)
        self.rate = check_number("rate", rate, above=0)
        self.batch_mean = batch_mean
        self.register_buffer("rho", target)
        self.register_buffer("theta", torch.full_like(target, -torch.inf))
        self.register_buffer("spread", torch.ones_like(target))
        self.register_buffer("frequency", target.clone())
        self.register_buffer("offset", torch.zeros_like(target))
        free = target.new_full((*target.shape[:-1], 1), 0.0 if band is None else 1.0)
        self.register_buffer("free", free)
        # Of the parts of a batch so far: active rows, z - theta, its square, rows.
        sums = target.new_zeros(*target.shape[:-1], 4, target.shape[-1])
        self.register_buffer("sums", sums, persistent=False)
        self._in_parts = False

    def extra_repr(self) -> str:
        """The sizes and settings."""
        band = "" if self.band is None else f", band={self.band}"
        return f"{tuple(self.rho.shape)}, rho={self.rho.mean().item():.3g}{band}, rate={self.rate}"

    def forward(self, pre_activations: Tensor, mask: Tensor | None = None) -> Tensor:
        """Latents (..., L) of pre_activations (..., L).

        Before `start`, in training mode, the first batch's mean and spread set the thresholds, as
        if z were Gaussian; in evaluation mode it is a RuntimeError. The mask (...), of bools, is
        True where a row counts; the others, such as padding, pass and move nothing.
        """
        z = pre_activations
        if self.training:
            if not recomputing():
                self._see(z.detach(), mask)
        elif not torch.compiler.is_compiling() and self.theta.isinf().any():
            raise RuntimeError("FrequencyThreshold must have seen rows: train it, or call start")
        # Comparing in place is several times faster than through a tensor of bools.
        return z * z.detach().clone().gt_(against(self.theta, z))

    @contextmanager
    def whole_batch(self) -> Iterator[None]:
        """Within this block all that comes is one batch: thresholds move once, at its end.

        For gradient accumulation, around the forward and backward passes of all parts, be it with
        `backward_in_parts` or without; DistributedDataParallel needs its no_sync around all parts
        but the last, as it copies buffers otherwise. After an error nothing moves.

        Example:
            >>> threshold = FrequencyThreshold(3, rho=0.1).start(torch.randn(1000, 3))
            >>> with threshold.whole_batch():
            ...     for part in torch.randn(64, 3).split(16):
            ...         latents = threshold(part)
        """
        if self._in_parts:
            raise RuntimeError("whole_batch must not stand within itself")
        if self.theta.isinf().any():  # and would let everything pass until the end
            raise RuntimeError("whole_batch needs thresholds: call start before it")
        self.sums.zero_()
        self._in_parts = True
        try:
            yield
        finally:
            self._in_parts = False
        with torch.no_grad():
            self._move(self.sums)

    @torch.no_grad()
    def start(self, pre_activations: Tensor) -> "FrequencyThreshold":
        """Set each threshold to the (1 - rho) quantile of its latent's rows (..., L), exactly.

        Half-way between the two values that it separates. Call it before training, with many rows,
        and again after it, to be exact. Rows must be at least 1 / rho, finite, and are better 50 /
        rho. A RuntimeWarning says where ties or constant latents keep a latent away from rho.
        Under a band it sets the one threshold, and leaves the offsets. Several processes must be
        given the same rows.
        """
        rows = self._checked(pre_activations)
        self.spread.copy_(rows.std(-2))
        exact = self.theta if self.free.all() else upper_quantile(rows, self.rho)
        if self.free.any():
            one = common_quantile(rows - self.offset.unsqueeze(-2), self.rho)
            exact = torch.where(self.free > 0, one + self.offset, exact)
        self.theta.copy_(exact)
        self.frequency.copy_(self._share(rows))
        miss = ((self.frequency - self.rho).abs() * rows.shape[-2] > 1) & (self.free == 0)
        if miss.any():
            where = tuple(miss.nonzero()[0].tolist())
            warnings.warn(
                f"{int(miss.sum())} latent(s) cannot be active at rho on these rows, for ties: "
                f"latent {where if len(where) > 1 else where[0]} is asked for "
                f"{self.rho[where].item():.3g} and is active on {self.frequency[where].item():.3g}",
                RuntimeWarning,
                stacklevel=2,
            )
        return self

    @torch.no_grad()
    def adopt(
        self, pre_activations: Tensor, *, band: float | Band | None = None
    ) -> "FrequencyThreshold":
        """Prescribe from now on the frequencies that the latents have on these rows, within a band.

        They are read under the present thresholds, scaled to the mean of rho and kept within the
        band, which leaves none dead; then `start` makes them exact.
        """
        if self.theta.isinf().any():
            raise RuntimeError("adopt needs thresholds: train first, or call start")
        band = self.band if band is None else check_band(band)
        if band is None:
            raise ValueError("band must be given, here or to FrequencyThreshold, got None")
        found = self._share(self._checked(pre_activations))
        self.rho.copy_(bounded_mean(found, *limits(self.rho, band)))
        self.free.zero_()
        return self.start(pre_activations)

    def _checked(self, pre_activations: Tensor) -> Tensor:
        check_finite("pre_activations", check_tensor("pre_activations", pre_activations, dims=2))
        rows = in_single(rows_of(pre_activations.detach(), self.theta))
        needed = math.ceil((1 - 1e-6) / self.rho.min().item())  # rho is rounded
        if rows.shape[-2] < max(needed, 2):
            least = f"1 / rho = {needed} rows, for the least rho"
            raise ValueError(f"pre_activations must have at least {least}, got {rows.shape[-2]}")
        return rows

    def _share(self, rows: Tensor) -> Tensor:
        """The share of rows (..., rows, L) above theta, (..., L)."""
        return rows.clone().gt_(self.theta.unsqueeze(-2)).mean(-2)

    @torch.no_grad()
    def _see(self, z: Tensor, mask: Tensor | None) -> None:
        """Count the rows of a batch, or of a part of one, and move unless more are to come."""
        rows, theta = in_single(rows_of(z, self.theta)), self.theta.unsqueeze(-2)
        count, middle = rows.shape[-2], theta.masked_fill(theta.isinf(), 0)
        if count == 0 and self.batch_mean is None:
            return
        active = rows.clone().gt_(theta)
        if mask is None:
            # Odd, or it might meet the same place of each sequence.
            some = rows[..., :: count // _SAMPLED | 1, :]
            over, scale = some - middle, count / max(some.shape[-2], 1)
            counted = torch.full_like(self.theta, count)
        else:
            kept = mask.expand(z.shape[:-1]).flatten(self.theta.ndim - 1).unsqueeze(-1)
            active.masked_fill_(~kept, 0)
            over, scale = (rows - middle).masked_fill_(~kept, 0), 1.0
            counted = kept.sum(-2).to(self.theta).expand_as(self.theta)
        moments = over.sum(-2) * scale, over.square().sum(-2) * scale
        sums = torch.stack([active.sum(-2), *moments, counted], dim=-2).to(self.theta)
        if self._in_parts:
            self.sums += sums
        else:
            self._move(sums)

    def _move(self, sums: Tensor) -> None:
        """Move the thresholds by what a whole batch, or this process's part of it, adds up to."""
        mean = sums / sums[..., 3:, :].clamp(min=1)
        if self.batch_mean is not None:
            mean = self.batch_mean(mean, int(sums.flatten(0, -2)[-1, 0]))
        share, over, square, any_rows = mean.unbind(-2)
        spread = (square - over.square()).clamp(min=0).sqrt()
        unset = self.theta.isinf()
        first = over + spread * torch.special.ndtri(1 - self.rho)
        first = first.lerp(first.mean(-1, keepdim=True), self.free)
        spread = torch.where(unset, spread, self.spread.lerp(spread, _SPREAD_RATE))
        frequency = self.frequency.lerp(share, _FREQUENCY_RATE)
        # Padding alone would lower all, and one overflow would spoil a threshold for good.
        step, saw = self.rate * spread, (any_rows > 0) & square.isfinite()
        move = step * (share / self.rho - 1).clamp(max=_MOST_MISS)
        if self.band is not None:
            known = frequency, self.offset, step, self.rho, self.band
            freely, offset = band_moves(share, *known)
            move = move.lerp(freely, self.free)
            self.offset.copy_(torch.where(saw & ~unset, offset, self.offset))
        theta = torch.where(unset, first, self.theta + move)
        self.theta.copy_(torch.where(saw, theta, self.theta))
        self.spread.copy_(torch.where(saw, spread, self.spread))
        self.frequency.copy_(torch.where(saw & ~unset, frequency, self.frequency))
