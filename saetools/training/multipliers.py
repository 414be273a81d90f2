"""The frequency as a constraint: one multiplier per unit, in place of a weight for all."""

import torch
from torch import Tensor

from saetools.data.checks import check_number, check_positive, check_rho, check_tensor
from saetools.data.hints import warn_of_latents
from saetools.frequency import BatchMean, in_single, straight_through
from saetools.penalties import divergence as kl_of
from saetools.training.models import Output


class FrequencyMultipliers:
    """A penalty with a multiplier for each unit, which rises while the unit is on too often.

    multiplier * rho_hat + damping (rho_hat - rho)^2 / 2 + divergence * KL, summed over the units.
    After each batch a unit's multiplier grows by rate (rho_hat - rho), so that it comes to rest
    only where the unit is at rho: no weight decides how near it comes. Make a new one for each
    training. Source: the augmented Lagrangian of Hestenes 1969 and Powell 1969, the multiplier
    updated at each step.

    Args:
        rho, temperature: as for `frequency_penalty`.
        rate: > 0, how fast a multiplier follows its unit.
        damping: >= 0, of the square of the miss.
        divergence: >= 0, of `frequency_penalty`'s KL, which pulls harder near 0 and 1. Without
            either, multipliers and frequencies swing ever further.
        batch_mean: as for `frequency_penalty`, but not in `backward_in_parts`, which would move the
            multipliers twice per part.

    Example:
        >>> constraint = FrequencyMultipliers(rho=0.2)
        >>> z = torch.tensor([[1.0, -0.2], [-1.0, -0.2]])  # on for half of the rows, and for none
        >>> constraint(Output(z, z.relu(), z)), constraint.multipliers > 0
        (tensor(0.0200), tensor([ True, False]))
    """

    def __init__(
        self,
        *,
        rho: float | Tensor,
        rate: float = 3e-3,
        damping: float = 0.3,
        divergence: float = 0.0,
        temperature: float = 0.3,
        batch_mean: BatchMean | None = None,
    ) -> None:
        like = torch.empty(0)
        check_rho(rho, like=like)
        self.rho = rho
        self.rate = check_number("rate", rate, above=0)
        self.damping = check_number("damping", damping, minimum=0)
        self.divergence = check_number("divergence", divergence, minimum=0)
        self.temperature = check_positive("temperature", temperature, like=like)
        self.batch_mean = batch_mean
        self.multipliers: Tensor | None = None  # (..., L)

    def __call__(self, output: Output) -> Tensor:
        """The cost of a batch, a scalar or (N,) in an ensemble; the multipliers are updated."""
        if not hasattr(output, "pre_activations"):
            got = f"got {type(output).__name__}"
            raise TypeError(f"output must have pre_activations, as an Output has, {got}")
        part = {"may_be_empty": self.batch_mean is not None}
        z = in_single(check_tensor("pre_activations", output.pre_activations, dims=2, **part))
        warn_of_latents("pre_activations", z)
        rho_hat = straight_through(z, self.temperature, batch_mean=self.batch_mean)
        rho = check_rho(self.rho, like=rho_hat, shape=rho_hat.shape)
        if self.multipliers is not None and self.multipliers.shape != rho_hat.shape:
            shapes = f"{tuple(self.multipliers.shape)}, got {tuple(rho_hat.shape)}"
            raise ValueError(
                f"units must stay those of the first batch, {shapes}: make another one"
            )
        miss = rho_hat - rho
        with torch.no_grad():
            before = torch.zeros_like(rho_hat) if self.multipliers is None else self.multipliers
            self.multipliers = before + self.rate * miss
        cost = self.multipliers * rho_hat + self.damping * miss.square() / 2
        if self.divergence:
            cost = cost + self.divergence * kl_of(rho_hat, z, rho)
        return cost.sum(-1)

    def state_dict(self) -> dict[str, Tensor | None]:
        """The multipliers."""
        return {"multipliers": self.multipliers}

    def load_state_dict(self, state: dict[str, Tensor | None]) -> None:
        """Go on from what `state_dict` returned."""
        self.multipliers = state["multipliers"]
