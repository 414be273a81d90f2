"""The methods of large_codes.py: what makes latents of pre-activations, what adds to a loss.

Settings are those of the papers where they carry over to rows of any scale; others were chosen on
held-out rows, never on test rows.
"""

from collections.abc import Callable
from functools import partial

import torch
from _codes import Autoencoders
from _large_setting import Batch, Method, Setting
from torch import Tensor, nn

from saetools import (
    BatchTopK,
    FrequencyThreshold,
    GroupBiasAdaptation,
    JumpReLU,
    TopK,
    WinnerTakeAll,
    fit_law,
    frequency_law,
    frequency_penalty,
)
from saetools.activations.quantile import upper_quantile

BAND, TURN = 5.0, 0.85  # chosen on held-out rows, the same for all data


def top_k(given: Setting, *, auxk: bool = False) -> Method:
    """k of each row; with `auxk` dead latents learn to explain what is left."""
    return Method(TopK(given.l0), AuxK(given.models) if auxk else None)


class AuxK:
    """The k largest of the dead latents reconstruct the error: Gao et al. 2024, arXiv 2406.04093.

    A latent is dead that no row of the last so many batches switched on. k is half the number of
    features, the weight 1/32, and the loss relative to the error, as there.
    """

    def __init__(self, models: Autoencoders, *, batches: int = 50, weight: float = 1 / 32) -> None:
        self.models, self.batches, self.weight = models, batches, weight
        self.since = torch.zeros_like(models.bias[:, 0], dtype=torch.int32)

    def __call__(self, batch: Batch) -> Tensor:
        """The auxiliary loss."""
        on = (batch.latents > 0).any(1)
        self.since = (self.since + 1).masked_fill(on, 0)
        dead = self.since >= self.batches
        none = batch.z.new_zeros(len(batch.z))
        if not dead.any():
            return none
        most = min(batch.x.shape[-1] // 2, int(dead.sum(-1).max()))
        kept, places = batch.z.masked_fill(~dead[:, None], -torch.inf).topk(most, dim=-1)
        latents = torch.zeros_like(batch.z).scatter(-1, places, kept.relu())
        left = (batch.x - batch.x_hat).detach()
        missed = (latents @ self.models.decoder - left).square().sum((1, 2))
        return torch.where(dead.any(-1), self.weight * missed / left.square().sum((1, 2)), none)


def batch_top_k(given: Setting) -> Method:
    """k of each row on average over a batch."""
    activation = BatchTopK(given.l0)
    members, _, latents = given.z.shape
    activation.threshold = activation.threshold.to(given.z).repeat(members, 1)
    return Method(activation, thresholds=lambda _: activation.threshold.expand(members, latents))


def jump_relu(
    given: Setting, *, weight: float = 3.0, bandwidth: float = 1.0, pace: float = 10.0
) -> Method:
    """Thresholds by gradient, and a term for L0; the bandwidth is in spreads of z.

    At the learning rate of the rest, thresholds come too late in a thousand steps, and L0 is off.
    """
    latents = given.z.shape[-1]
    activation = JumpReLU(latents, bandwidth=bandwidth * float(given.z.std()))
    activation.log_threshold = nn.Parameter(given.common.log().repeat(1, latents))
    return Method(
        activation,
        lambda batch: weight * activation.l0_penalty(batch.z, given.l0),
        thresholds=lambda _: activation.theta.detach(),
        pace=pace,
    )


def winner_take_all(given: Setting, *, law: tuple[float, float] | None = None) -> Method:
    """rho B rows of each latent; by a law it is Feature Choice."""
    members, _, latents = given.z.shape
    rho = given.law(*law) if law else given.z.new_full((members, latents), given.mean)
    return Method(
        WinnerTakeAll(latents, rho), thresholds=lambda z: upper_quantile(z, rho), rho=lambda: rho
    )


class Scaled(nn.Module):
    """An activation that is meant for pre-activations of another scale."""

    def __init__(self, activation: nn.Module, scale: Tensor) -> None:
        super().__init__()
        self.activation, self.scale = activation, scale

    def forward(self, z: Tensor) -> Tensor:
        """Latents, back in the scale of z."""
        latents: Tensor = self.activation(z / self.scale) * self.scale
        return latents


def group_bias(given: Setting, *, groups: int = 10, rate: float = 0.1, every: int = 5) -> Method:
    """Groups whose frequencies fall from ten times to a tenth of the middle one.

    Rate and interval are for the thousand steps here; the paper trains far longer. None were found
    with which it keeps L0 in so few steps: what comes out says nothing about the paper's claims.
    """
    members, _, latents = given.z.shape
    falling = torch.logspace(1, -1, groups).repeat_interleave(-(-latents // groups))[:latents]
    rho = (falling * given.mean / falling.mean()).clamp(max=0.5).repeat(members, 1)
    activation = GroupBiasAdaptation(latents, rho.to(given.z.device), rate=rate, every=every)
    # Rows of norm 1: a unit direction sees a norm's share, 1 / sqrt(D), of a row.
    norm = given.z.std() * given.models.decoder.shape[-1] ** 0.5
    return Method(
        Scaled(activation, norm),
        thresholds=lambda _: -activation.bias * norm,
        excess=True,
        normed=True,
        rho=lambda: activation.rho,
    )


def l1(given: Setting, *, rate: float = 0.02) -> Method:
    """ReLU and L1, whose weight is steered to L0; the bias starts at each latent's frequency."""
    weight = given.z.new_full((len(given.z),), 1e-3)
    rho = given.z.new_full((len(given.z), given.z.shape[-1]), given.mean)
    given.models.bias.data.sub_(upper_quantile(given.z, rho)[:, None])

    def added(batch: Batch) -> Tensor:
        excess = (batch.latents > 0).float().sum(-1).mean(-1) / given.l0 - 1
        weight.mul_((rate * excess.clamp(-1, 1)).exp())
        return weight * batch.latents.sum(-1).mean(-1) / float(given.z.std())

    return Method(nn.ReLU(), added, thresholds=lambda z: torch.zeros_like(z[:, 0]), excess=True)


def penalty(given: Setting, *, weight: float = 0.03) -> Method:
    """ReLU and this project's penalty on the frequency, from the same start."""
    start = l1(given)
    rho = given.z.new_full((len(given.z), given.z.shape[-1]), given.mean)

    def added(batch: Batch) -> Tensor:
        scaled = batch.z / batch.spread
        return frequency_penalty(scaled, rho=given.mean, weight=weight, dim=-2)

    return start._replace(added=added, rho=lambda: rho)


def threshold(given: Setting, *, law: tuple[float, float] | None = None) -> Method:
    """The tracked threshold, at one frequency for all or by a law that is not the data's."""
    members, _, latents = given.z.shape
    rho = given.law(*law) if law else given.z.new_full((members, latents), given.mean)
    activation = FrequencyThreshold(latents, rho).to(given.z.device).start(given.z)
    return _exact(activation)


def band(given: Setting, *, then: str = "") -> Method:
    """One threshold, and none below a fifth of the mean; late, frequencies are held, or a law."""
    members, _, latents = given.z.shape
    rho = given.z.new_full((members, latents), given.mean)
    activation = FrequencyThreshold(latents, rho, band=BAND)
    activation.to(given.z.device).start(given.z)
    if not then:
        return Method(activation, thresholds=lambda _: activation.theta)
    turn = activation.adopt if then == "adopt" else partial(adopt_law, activation)
    return _exact(activation)._replace(turn=(TURN, turn))


@torch.no_grad()
def adopt_law(activation: FrequencyThreshold, z: Tensor) -> None:
    """Hold frequencies of the power law nearest to those found, each latent in its own rank."""
    mean = float(activation.rho.mean())
    for rho, found in zip(activation.rho, activation.frequency, strict=True):
        law = fit_law(found)
        wanted = frequency_law(len(rho), mean, *law, floor=mean / BAND)
        rho[found.argsort(descending=True)] = wanted.to(rho)
    activation.free.zero_()
    activation.start(z)


def _exact(activation: FrequencyThreshold) -> Method:
    def thresholds(z: Tensor) -> Tensor:
        return activation.start(z).theta

    return Method(activation, thresholds=thresholds, rho=lambda: activation.rho)


Make = Callable[[Setting], Method]
METHODS: dict[str, Make] = {
    "BatchTopK": batch_top_k,
    "TopK": top_k,
    "TopK, AuxK": partial(top_k, auxk=True),
    "JumpReLU": jump_relu,
    "winner-take-all": winner_take_all,
    "Feature Choice": partial(winner_take_all, law=(1.0, 30.0)),
    "Group Bias Adaptation": group_bias,
    "L1": l1,
    "penalty": penalty,
    "threshold, uniform": threshold,
    "threshold, law": partial(threshold, law=(1.0, 30.0)),
    "threshold, band": band,
    "threshold, band, held": partial(band, then="adopt"),
    "threshold, band, law": partial(band, then="law"),
}
