"""The autoencoder. Modules only, no loss."""

import itertools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from numbers import Integral
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.utils._pytree
from torch import Tensor, nn

from saetools.data.checks import check_count, check_function, check_tensor


class Output(NamedTuple):
    """What an autoencoder returns for a batch x of shape (..., B, D)."""

    reconstruction: Tensor  # (..., B, D)
    latents: Tensor  # (..., B, L), what the activation makes of them: relu(pre_activations)
    pre_activations: Tensor  # (..., B, L), what a sparsity penalty must see


# torch.export.save writes no type that it does not know by name.
torch.utils._pytree._register_namedtuple(Output, serialized_type_name="saetools.Output")


class SparseAutoencoder(nn.Module):
    """A ReLU autoencoder whose decoder mirrors its encoder.

    With the default sizes it is the forum post's network, 20-80-40-4-40-80-20, but for its output:
    a sigmoid, which suits inputs in [0, 1], and not a ReLU, whose units can die. It can be exported
    and saved by `torch.export`; where it is loaded, import saetools first, for its `Output`.

    Args:
        sizes: width of each layer from the input (D) to the code (L), two or more.
        output: function applied to the last layer, elementwise.
        activation: what makes latents of the code's pre-activations: a function or a module, such
            as `FrequencyThreshold`.
        centred: subtract the last layer's bias from the input, as for a code of one hidden layer:
            `SparseAutoencoder((D, L), nn.Identity(), centred=True, unit_norm_decoder=True)`. It
            needs nn.Identity() as output, and starts best at the mean of the rows, to which
            `initialise_for_frequency_` sets it.
        unit_norm_decoder: divide each unit's direction, its column in `decoder[0].weight`, by its
            norm; `train` and `train_ensemble` keep the weight itself at a norm of 1.
        seed: decides the weights, the same on each device; None draws them from the global random
            state, which is left alone otherwise.
        device: where the weights are to be; None for torch's default device.

    Example:
        >>> SparseAutoencoder(seed=0)(torch.rand(5, 20)).latents.shape
        torch.Size([5, 4])
    """

    def __init__(
        self,
        sizes: Sequence[int] = (20, 80, 40, 4),
        output: Callable[[Tensor], Tensor] = torch.sigmoid,
        *,
        activation: Callable[[Tensor], Tensor] = torch.relu,
        centred: bool = False,
        unit_norm_decoder: bool = False,
        seed: int | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__()
        if isinstance(sizes, Integral):
            second = output if isinstance(output, Integral) else 4
            raise TypeError(f"sizes must be one sequence, got {sizes}: say ({sizes}, {second})")
        if len(sizes) < 2:
            raise ValueError(f"sizes must hold at least two widths, got {tuple(sizes)}")
        check_function("output", output, such_as="torch.sigmoid")
        self.sizes = tuple(check_count("sizes", size) for size in sizes)
        check_function("activation", activation, such_as="torch.relu")
        self.activation = activation
        if centred and not isinstance(output, nn.Identity):
            raise ValueError(f"centred=True needs output=nn.Identity(), got {output!r}")
        self.output, self.centred, self.unit_norm_decoder = output, centred, unit_norm_decoder
        with ExitStack() as seeded:
            if seed is not None:
                seeded.enter_context(torch.random.fork_rng(devices=[]))
                seeded.enter_context(torch.device("cpu"))
                # Not torch.manual_seed, which reseeds every accelerator as well.
                torch.default_generator.manual_seed(check_count("seed", seed, minimum=0))
            self.encoder, self.decoder = (
                nn.ModuleList(nn.Linear(*widths) for widths in itertools.pairwise(sizes))
                for sizes in (self.sizes, self.sizes[::-1])
            )
        self.normalise_()
        self.to(torch.empty(0, device=device).device)

    _rectify = staticmethod(torch.relu)  # of the hidden layers

    @property
    def code(self) -> nn.Linear:
        """The layer whose outputs are the code's pre-activations."""
        return self.encoder[-1]  # type: ignore[return-value]

    def code_inputs(self, x: Tensor) -> Tensor:
        """What the code's layer is given for x (..., B, D)."""
        check_tensor("x", x, dims=0, may_be_empty=True)
        if x.shape[-1:] != self.sizes[:1]:
            raise ValueError(f"x must have {self.sizes[0]} columns, got shape {tuple(x.shape)}")
        if self.centred:
            x = x - self.decoder[-1].bias  # type: ignore[operator]
        for layer in self.encoder[:-1]:
            x = self._rectify(layer(x))
        return x

    def encode(self, x: Tensor) -> Tensor:
        """Pre-activations (..., B, L) of the code for x (..., B, D)."""
        pre_activations: Tensor = self.encoder[-1](self.code_inputs(x))
        return pre_activations

    def decode(self, latents: Tensor) -> Tensor:
        """Reconstruction (..., B, D) from latents (..., B, L)."""
        if self.unit_norm_decoder:
            latents = latents / self._norms()
        for layer in self.decoder[:-1]:
            latents = self._rectify(layer(latents))
        return self.output(self.decoder[-1](latents))

    def _norms(self) -> Tensor:
        """Of the units' columns (L,); (N, 1, L) where models are stacked, weights transposed."""
        weight: Tensor = self.decoder[0].weight  # type: ignore[assignment]
        norms: Tensor = weight.norm(dim=0) if weight.ndim == 2 else weight.norm(dim=-1)[:, None]
        return norms

    @torch.no_grad()
    def normalise_(self) -> None:
        """Divide the columns of a unit-norm decoder by their norms, which changes no output."""
        if self.unit_norm_decoder:
            weight: Tensor = self.decoder[0].weight  # type: ignore[assignment]
            weight.div_(self._norms() if weight.ndim == 2 else self._norms().mT)

    if TYPE_CHECKING:  # of nn.Module it is untyped

        def __call__(self, x: Tensor) -> Output:
            """As forward."""

    def forward(self, x: Tensor) -> Output:
        """Encode, make latents of it, and decode x (..., B, D)."""
        pre_activations = self.encode(x)
        latents = self.activation(pre_activations)
        return Output(self.decode(latents), latents, pre_activations)


def check_autoencoder(name: str, model: object, remedy: str) -> None:
    """Raise unless it is a SparseAutoencoder; of a wrapper say where it holds one."""
    if isinstance(model, SparseAutoencoder):
        return
    for inner in ("module", "_orig_mod"):  # of DataParallel, and of torch.compile
        if isinstance(getattr(model, inner, None), SparseAutoencoder):
            remedy = f"give its .{inner}"
    raise TypeError(f"{name} must be a SparseAutoencoder, got {type(model).__name__}: {remedy}")
