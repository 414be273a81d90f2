"""The autoencoder. Modules only, no loss."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from saetools.data.checks import check_count


class Output(NamedTuple):
    """What an autoencoder returns for a batch x of shape (..., B, D)."""

    reconstruction: Tensor  # (..., B, D)
    latents: Tensor  # (..., B, L), relu(pre_activations)
    pre_activations: Tensor  # (..., B, L), what a sparsity penalty must see


class SparseAutoencoder(nn.Module):
    """A ReLU autoencoder whose decoder mirrors its encoder.

    With the default sizes it is the forum post's network, 20-80-40-4-40-80-20, with one
    difference: the output goes through a sigmoid, which suits inputs in [0, 1], and not
    through a ReLU, whose units can die.

    Args:
        sizes: width of each layer from the input (D) to the code (L), two or more.
        output: function applied to the last layer, elementwise.
        seed: decides the weights, the same on each device; None draws them from the global
            random state, which is left alone otherwise.
        device: where the weights are to be.

    Example:
        >>> model = SparseAutoencoder(seed=0)
        >>> output = model(torch.rand(5, 20))
        >>> output.reconstruction.shape, output.latents.shape
        (torch.Size([5, 20]), torch.Size([5, 4]))
    """

    def __init__(
        self,
        sizes: Sequence[int] = (20, 80, 40, 4),
        output: Callable[[Tensor], Tensor] = torch.sigmoid,
        *,
        seed: int | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__()
        if len(sizes) < 2:
            raise ValueError(f"sizes must hold at least two widths, got {tuple(sizes)}")
        if not callable(output):
            raise TypeError(f"output must be a function, such as torch.sigmoid, got {output!r}")
        self.sizes = tuple(check_count("sizes", size) for size in sizes)
        self.output = output
        with _seeded(seed):
            self.encoder = _linear_layers(self.sizes)
            self.decoder = _linear_layers(self.sizes[::-1])
        # By default torch's default device, be it set globally or by a block.
        self.to(torch.empty(0, device=device).device)

    _rectify = staticmethod(torch.relu)  # of the hidden layers

    @property
    def code(self) -> nn.Linear:
        """The layer whose outputs are the code's pre-activations."""
        return self.encoder[-1]  # type: ignore[return-value]

    def code_inputs(self, x: Tensor) -> Tensor:
        """What the code's layer is given for x (..., B, D)."""
        if x.shape[-1:] != self.sizes[:1]:
            raise ValueError(f"x must have {self.sizes[0]} columns, got shape {tuple(x.shape)}")
        for layer in self.encoder[:-1]:
            x = self._rectify(layer(x))
        return x

    def encode(self, x: Tensor) -> Tensor:
        """Pre-activations (..., B, L) of the code for x (..., B, D)."""
        pre_activations: Tensor = self.encoder[-1](self.code_inputs(x))
        return pre_activations

    def decode(self, latents: Tensor) -> Tensor:
        """Reconstruction (..., B, D) from latents (..., B, L)."""
        x = latents
        for layer in self.decoder[:-1]:
            x = self._rectify(layer(x))
        return self.output(self.decoder[-1](x))

    def forward(self, x: Tensor) -> Output:
        """Encode, rectify and decode x (..., B, D)."""
        pre_activations = self.encode(x)
        latents = torch.relu(pre_activations)
        return Output(self.decode(latents), latents, pre_activations)


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Draw on the CPU from `seed`, whatever the default device; None changes nothing."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # Not torch.manual_seed, which reseeds every accelerator as well.
        torch.default_generator.manual_seed(seed)
        yield


def _linear_layers(sizes: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(
        nn.Linear(inputs, outputs) for inputs, outputs in itertools.pairwise(sizes)
    )
