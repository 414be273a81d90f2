"""Penalties: formulas of a frequency, one value per unit, and the recommended one in a call."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from saetools.data.checks import (
    check_broadcast,
    check_count,
    check_finite,
    check_function,
    check_number,
    check_positive,
    check_rho,
    check_rows,
    check_tensor,
)
from saetools.data.hints import warn_of_channels, warn_of_few_rows, warn_of_latents
from saetools.frequency import BatchMean, Dims, hard_count, in_single, squeeze, straight_through


def frequency_penalty(
    pre_activations: Tensor,
    *,
    rho: float | Tensor,
    weight: float | Tensor = 1.0,
    temperature: float | Tensor = 0.3,
    eps: float | None = None,
    dim: Dims | None = None,
    batch_mean: BatchMean | None = None,
) -> Tensor:
    """The penalty this series recommends: add it to the loss, and each unit fires at rate rho.

    `bernoulli_kl` of the `smooth` `straight_through_frequency`, summed over the units. It works
    best from a start at which each unit has a spread of 1 and fires at rate rho: initialise.py.

    Args:
        pre_activations: what the code's layer returns, before the ReLU, units last, (..., L).
        rho: the share of the rows on which a unit is to be active, in (0, 1); a tensor is broadcast
            against the units, for instance (L,) for one per unit.
        weight: factor of each unit's divergence; a tensor is broadcast as rho is. The more units
            there are, the less each adds to the error, a mean over features: `penalty_weight` is
            the rule. Times (activation_frequency(z) < rho) it asks for *at least* rho.
        temperature: > 0, of the sigmoid whose slope is the count's; 0.3 suits a spread of 1.
        eps: in (0, 0.5); bounds the pull on a unit that is never or always on. By default the
            `unbiased_eps` of the batch's rows; of this part's, where batch_mean tells no `rows`.
        dim: the dim or dims to count over: by default all but the last, so that (B, L) and
            sequences (B, T, L) give a scalar; in an ensemble (N, B, L) -2, which gives (N,). With
            -1 it counts units, and k of L are on in each row: rho=k / L, weight=1 / B, eps=1e-3, as
            the default eps is for rows that are a sample, and these are all there are.
        batch_mean: makes a whole batch's frequency from that of this part and its rows, 0 or more:
            `over_ranks`, a `RunningFrequency`, or what `backward_in_parts` gives.

    Warns once per place that calls it: where fewer than 5 of the batch's rows are to be on (500
    rows at rho = 0.01; counts are then too uncertain, and units settle under rho), and where
    pre_activations come from a ReLU, behind which a silent unit has no gradient, from a sigmoid, or
    with channels first from a convolution.

    Example:
        >>> z = torch.tensor([[1.0, -0.2], [-1.0, -0.2]], requires_grad=True)
        >>> loss = frequency_penalty(z, rho=0.5)  # on half of the rows: the second unit never is
        >>> loss.backward()
        >>> loss.item() > 0, bool((z.grad[:, 1] < 0).all())  # and is pulled up
        (True, True)
    """
    check_tensor("pre_activations", pre_activations, dims=2, may_be_empty=batch_mean is not None)
    z = in_single(pre_activations)
    dims = tuple(range(z.ndim - 1)) if dim is None else (dim,) if isinstance(dim, int) else dim
    counted = {d % z.ndim for d in dims}
    if len(counted) == z.ndim:
        raise ValueError(f"dim must leave the units, got {dim} for {z.ndim} dims")
    units = [size for d, size in enumerate(z.shape) if d not in counted]
    target = check_rho(rho, like=z, shape=units)
    warn_of_latents("pre_activations", z)
    if dim is None:
        warn_of_channels("pre_activations", z)
    if batch_mean is not None:
        check_function("batch_mean", batch_mean, such_as="over_ranks")
    if isinstance(weight, Tensor):
        check_broadcast("weight", weight, units, "the units")
    rows = z.numel() // math.prod(units)
    is_sample = z.ndim - 1 not in counted  # the units of a row are all there are
    if batch_mean is None and is_sample and not torch.compiler.is_compiling():
        rarest = (
            rho if not isinstance(rho, Tensor) else torch.minimum(target, 1 - target).detach().min()
        )
        warn_of_few_rows(float(rarest), rows, units[-1])
    squeezed_by: float | Tensor | None = None
    if eps is not None:
        squeezed_by = check_number("eps", eps, above=0, below=0.5)
    elif batch_mean is None:
        squeezed_by = unbiased_eps(target if isinstance(rho, Tensor) else float(rho), rows)
    settings: _Settings = (
        target,
        weight.to(z) if isinstance(weight, Tensor) else check_number("weight", weight, minimum=0),
        check_positive("temperature", temperature, like=z),
        squeezed_by,
        dims,
    )
    if batch_mean is None and _one_node_will_do(z, settings):
        penalty: Tensor = _OneNode.apply(z, settings)  # type: ignore[no-untyped-call]
        return penalty
    return _composed(z, settings, batch_mean)


def penalty_weight(x: Tensor, *, rho: float | Tensor, units: int) -> float:
    """The weight that suits the error's mean over the features of x (B, D), for so many units.

    3 x.var(0).mean() / (rho units), for a model that begins at rho: a unit accounts for about the
    variance over the asked number of active units, rho units, and the error pulls it as hard. With
    a third of it units end some 10 % above rho, with more than it nearer, and reconstruction pays.
    A rho of shape (L,) counts as its sum. Measured with 4 to 1,024 units (tests/test_rare_units).

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 3.0]])  # each feature has a variance of 1
        >>> [round(penalty_weight(x, rho=0.05, units=units), 2) for units in (4, 64, 4096)]
        [15.0, 0.94, 0.01]
    """
    check_finite("x", check_rows("x", x, least=2))
    active = check_rho(rho, like=in_single(x), shape=(check_count("units", units),))
    variance = in_single(x).var(0, correction=0).mean().item()
    return 3 * variance / active.expand(units).sum().item()


def unbiased_eps(rho: float | Tensor, rows: float | Tensor) -> float | Tensor:
    """The eps of `smooth` with which the penalty on a batch of so many rows is least at rho.

    1 / (rows + 2), which is add-one counting, times the chance that a unit at rho is on for one row
    or more, and off for one. A fixed eps moves the minimum to (rho - eps) / (1 - 2 eps), and chance
    moves it up by about (1 - 2 rho) / rows; here they cancel, to 1 % where rho rows >= 5. As eps is
    below rho, down to 3e-7, a silent unit is pulled up.

    Example:
        >>> round(1 / unbiased_eps(0.2, 128), 6), round(1 / unbiased_eps(0.02, 128), 1)
        (130.0, 140.6)
    """
    of: Any = torch if isinstance(rho, Tensor) else math
    chance = of.expm1(rows * of.log1p(-rho)) * of.expm1(rows * of.log(rho))
    eps, least = chance / (rows + 2), 2.0**-22  # below a quarter of it, 1 - eps is 1 in float32
    return eps.clamp(min=least) if isinstance(eps, Tensor) else max(eps, least)


# rho, weight, temperature, eps (None: of rows not yet known) and the dims to count over, checked.
_Settings = tuple[Tensor, float | Tensor, float | Tensor, Any, tuple[int, ...]]


def _composed(z: Tensor, settings: _Settings, batch_mean: BatchMean | None = None) -> Tensor:
    """The penalty as the notebooks build it; autograd finds its gradient."""
    rho, weight, temperature, eps, dims = settings
    rho_hat = straight_through(z, temperature, dim=dims, batch_mean=batch_mean)
    return (weight * divergence(rho_hat, z, rho, eps)).sum(-1)


def divergence(rho_hat: Tensor, z: Tensor, rho: Tensor, eps: Any = None) -> Tensor:
    """The KL of the smoothed frequency, per unit; without an eps, by the rows that it counts."""
    if eps is None:
        rows = torch.as_tensor(getattr(rho_hat, "rows", z.numel() // rho_hat.numel()))
        eps = unbiased_eps(rho, rows.clamp(min=1))
    return _kl(squeeze(rho_hat, eps), rho)


class _OneNode(torch.autograd.Function):
    """`_composed`, its gradient in closed form: half of the operations, and one buffer per pass."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, settings: _Settings) -> Tensor:
        rho, weight, temperature, eps, dims = settings
        counted = hard_count(z, dims)
        q = squeeze(counted, eps)
        by_z = weight * (1 - 2 * eps) / (temperature * (z.numel() // counted.numel()))
        ctx.save_for_backward(z, (q - rho) / (q * (torch.ones_like(rho) - q)) * by_z)
        ctx.units, ctx.settings = counted.shape, settings
        return (weight * _kl(q, rho)).sum(-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        z, slope = ctx.saved_tensors
        differentiable = torch.is_grad_enabled()  # for a second derivative, say: the composition's
        if differentiable or _is_transformed(gradient):
            with torch.enable_grad():
                penalty = _composed(z, ctx.settings)
            by_z = torch.autograd.grad(penalty, z, gradient, create_graph=differentiable)
            return by_z[0], None
        _, _, temperature, _, dims = ctx.settings
        share = gradient.unsqueeze(-1) * slope
        if share.shape != ctx.units:  # rho or weight has more dims than the units
            share = share.sum_to_size(ctx.units)
        for dim in sorted(d % z.ndim for d in dims):
            share = share.unsqueeze(dim)
        soft = (z / temperature).sigmoid_()
        return torch.ops.aten.sigmoid_backward.grad_input(share, soft, grad_input=soft), None


def _one_node_will_do(z: Tensor, settings: _Settings) -> bool:
    rho, weight, temperature, *_ = settings
    learned = rho.requires_grad or (isinstance(weight, Tensor) and weight.requires_grad)
    return not (
        torch.compiler.is_compiling()
        or learned
        or isinstance(temperature, Tensor)
        or type(z) not in (Tensor, nn.Parameter)
        or _is_transformed(z)
        or forward_ad._current_level >= 0
    )


def _is_transformed(x: Tensor) -> bool:
    """Whether torch.func or the vmap of autograd.grad is at work."""
    functorch = torch._C._functorch
    return torch._C._are_functorch_transforms_active() or functorch.is_legacy_batchedtensor(x)


def bernoulli_kl(rho_hat: Tensor, *, rho: float | Tensor) -> Tensor:
    """KL(Bernoulli(rho) || Bernoulli(rho_hat)) in nats, one value per unit.

    rho ln(rho / rho_hat) + (1 - rho) ln((1 - rho) / (1 - rho_hat))

    For frequencies rho_hat, (..., L), and a rho in (0, 1) that is broadcast against them, it is >=
    0, exactly 0 at rho, inf at 0 and 1, and NaN outside [0, 1], where no frequency counted over the
    right rows is. Elsewhere its error is below 6 eps `(KL + |rho_hat - rho|)`, with eps of float32
    or better. Its derivative, (rho_hat - rho) / (rho_hat (1 - rho_hat)), grows without bound at 0
    and 1: keep rho_hat away from them before you train on it. Source: Ng, CS294A lecture notes.

    Example:
        >>> bernoulli_kl(torch.tensor([0.0, 0.2, 0.5]), rho=0.2)
        tensor([   inf, 0.0000, 0.1927])
    """
    check_tensor("rho_hat", rho_hat, dims=1)
    target = in_single(check_rho(rho, like=rho_hat, shape=rho_hat.shape))
    return _kl(in_single(rho_hat), target).to(rho_hat.dtype)


def _kl(rho_hat: Tensor, rho: Tensor) -> Tensor:
    """rho (on - 1 - ln on) + (1 - rho) (off - 1 - ln off): no term can be rounded below 0."""
    one = torch.ones_like(rho)  # as operations with a number take twice as long on few units
    rest = one - rho
    on, off = rho_hat / rho, (one - rho_hat) / rest
    return torch.addcmul(rest * (off - one - off.log()), rho, on - one - on.log())
