"""What large_codes.py trains and measures: rows, autoencoders of one hidden layer, and their codes.

All have a dim of members first, N seeds that are trained at once.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _report import clock
from collect_activations import hidden_rows
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from saetools.tutorial.patches import PARTS, image_patches

Rows = dict[str, Tensor]  # of PARTS, each (rows, D)
Codes = Callable[[Tensor], Tensor]  # pre-activations (N, B, L) to latents
_NUMBERS = 1 << 28  # in the largest tensors of a measurement


def load_rows(file: Path | None, device: torch.device) -> Rows:
    """The patches, or the activations that collect_activations.py put into a file."""
    if file is None:
        rows = image_patches()
    else:
        found: dict[str, Any] = torch.load(file, mmap=True)
        rows = hidden_rows(found, device) if "weights" in found else found
    return {part: rows[part].to(device) for part in PARTS}


def some_rows(x: Tensor, count: int, *, seed: int = 0) -> Tensor:
    """So many rows of x, or all where there are fewer, in single precision."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return x[order[:count].to(x.device)].float()


def spent(device: torch.device) -> float:
    """Seconds so far: of the processor, or, of another device, on the clock."""
    return time.process_time() if device.type == "cpu" else clock(device)


class Autoencoders(nn.Module):
    """N of them: x_hat = latents @ decoder + centre, of activation((x - centre) @ encoder + bias).

    The decoder's rows, a direction per latent, have norm 1; the encoder starts as its transpose,
    and the centre at the mean of x.
    """

    def __init__(self, x: Tensor, latents: int, seeds: int, *, untied: bool = False) -> None:
        super().__init__()
        draws = []
        for seed in range(seeds):
            generator = torch.Generator().manual_seed(seed)
            draws.append(torch.randn(1 + untied, latents, x.shape[1], generator=generator))
        start = F.normalize(torch.stack(draws), dim=-1).to(x.device)  # (N, 1 or 2, L, D)
        self.decoder = nn.Parameter(start[:, 0].clone())
        self.encoder = nn.Parameter(start[:, -1].mT.contiguous())
        self.bias = nn.Parameter(x.new_zeros(seeds, 1, latents))
        self.centre = nn.Parameter(x.mean(0).repeat(seeds, 1, 1))

    def encode(self, x: Tensor) -> Tensor:
        """Pre-activations (N, B, L) of x (N, B, D) or (B, D)."""
        return torch.baddbmm(self.bias, x - self.centre, self.encoder)

    def decode(self, latents: Tensor) -> Tensor:
        """Reconstructions (N, B, D) of latents (N, B, L)."""
        return torch.baddbmm(self.centre, latents, self.decoder)

    @torch.no_grad()
    def normalise_(self, *, encoder: bool = False) -> "Autoencoders":
        """The decoder's directions to norm 1, or the encoder's where latents need that."""
        weights, dim = (self.encoder, -2) if encoder else (self.decoder, -1)
        weights.div_(weights.norm(dim=dim, keepdim=True))
        return self


class Measured(NamedTuple):
    """How N autoencoders do on rows: fraction of variance unexplained, frequency per latent."""

    fvu: Tensor  # (N,)
    frequency: Tensor  # (N, L)


def in_pieces(models: Autoencoders, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of x in pieces that fit into memory, with their pre-activations."""
    for piece in x.split(max(64, _NUMBERS // models.bias.numel())):
        yield piece, models.encode(piece.float())


@torch.no_grad()
def measure(models: Autoencoders, codes: Codes, x: Tensor) -> Measured:
    """Of rows x (rows, D), under any function from pre-activations to latents."""
    error = x.new_zeros(len(models.bias), dtype=torch.float64)
    active = torch.zeros_like(models.bias[:, 0])
    for piece, z in in_pieces(models, x):
        latents = codes(z)
        active += (latents != 0).sum(1)
        error += (models.decode(latents) - piece).square().sum((1, 2))
    exact = x.double()
    variance = (exact - exact.mean(0)).square().sum()
    return Measured(error / variance, active / len(x))


@torch.no_grad()
def shift_for_l0(
    models: Autoencoders, shifted: Callable[[Tensor], Codes], x: Tensor, l0: float
) -> Tensor:
    """The number (N, 1, 1) to add to all thresholds for so many active latents a row of x.

    Sparsity that a method asks for on its batches is a little off on other rows, and one per cent
    of it is half a per cent of error: it is set on rows that are in neither training nor test.
    """
    spread = models.encode(x[:4096]).std((1, 2), keepdim=True)
    low, high = -2 * spread, 2 * spread
    for _ in range(20):
        middle = (low + high) / 2
        active = torch.zeros_like(spread)
        for _, z in in_pieces(models, x):
            active += (shifted(middle)(z) != 0).sum((1, 2), keepdim=True)
        too_many = active > l0 * len(x)
        low, high = torch.where(too_many, middle, low), torch.where(too_many, high, middle)
    return (low + high) / 2
