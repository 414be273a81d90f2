"""Penalties: formulas of a frequency, one value per unit, and the recommended one in a call."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from saetools.data.checks import check_number, check_positive, check_rho, check_tensor
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

    The Kullback-Leibler divergence of the asked frequency from the counted one, summed over
    the units: `bernoulli_kl` of the `smooth` `straight_through_frequency`. It works best from a
    start at which each unit has a spread of 1 and fires at rate rho: see initialise.py.

    Args:
        pre_activations: what the code's layer returns, before the ReLU, units last, (..., L).
        rho: the share of the rows on which a unit is to be active, in (0, 1); a tensor is
            broadcast against the units, for instance (L,) for one per unit.
        weight: factor of each unit's divergence; a tensor is broadcast as rho is.
        temperature: > 0, of the sigmoid whose slope stands in for the count's, in the units of
            pre_activations: 0.3 suits a spread of 1.
        eps: > 0 and < 0.5, what `smooth` takes: it bounds the pull on a unit that is never or
            always on. By default `unbiased_eps` of the rows counted over, with which units end at
            rho; a fixed one sends them elsewhere where rho or the batch is small. With a
            `batch_mean` these are the rows of the whole batch if what it returns has them as an
            attribute `rows`, as those named below do, and otherwise the rows of this part.
        dim: the dim or dims to count over: by default all but the last, so that (B, L) and
            sequences (B, T, L) give a scalar. In an ensemble (N, B, L) it is -2.
        batch_mean: where the batch is cut into parts, what makes the frequency of all of it from
            that of this part and its number of rows: `over_ranks`, a `RunningFrequency`, or
            what `backward_in_parts` gives. A part may then be without a row.

    Returns:
        A scalar, or one value for each dim that is not counted over: (N,) in an ensemble.

    Source: the KL penalty of Ng, CS294A lecture notes, Sparse autoencoder, on a count with a
    straight-through gradient (Bengio, Léonard and Courville 2013, arXiv 1308.3432).

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
    squeezed_by: float | Tensor | None = None
    if eps is not None:
        squeezed_by = check_number("eps", eps, above=0, below=0.5)
    elif batch_mean is None:
        rows = z.numel() // math.prod(units)
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


def unbiased_eps(rho: float | Tensor, rows: float | Tensor) -> float | Tensor:
    """The eps of `smooth` with which the penalty on a batch of so many rows is least at rho.

    1 / (rows + 2), which is add-one counting, times the chance that a unit at rho is on for at
    least one of the rows, and off for one. A fixed eps moves the minimum down, to
    (rho - eps) / (1 - 2 eps), and the chance of the batch moves it up, by about
    (1 - 2 rho) / rows, since a unit that is silent by chance is pulled hard; here the two cancel.
    For counts of independent rows the mean slope at rho is then 0 to 1 in 100 where
    rho rows >= 5; and eps < rho, down to 3e-7, so that a silent unit is always pulled up.

    Args:
        rho: in (0, 1).
        rows: >= 1; a tensor is broadcast against rho.

    Example:
        >>> round(1 / unbiased_eps(0.2, 128), 6), round(1 / unbiased_eps(0.02, 128), 1)
        (130.0, 140.6)
    """
    if isinstance(rho, Tensor) or isinstance(rows, Tensor):
        share = torch.as_tensor(rho)
        both = torch.expm1(rows * torch.log1p(-share)) * torch.expm1(rows * share.log())
        return (both / (rows + 2)).clamp(min=_LEAST_EPS)
    chance = math.expm1(rows * math.log1p(-rho)) * math.expm1(rows * math.log(rho))
    return max(chance / (rows + 2), _LEAST_EPS)


_LEAST_EPS = 2.0**-22  # 1 - eps is 1 in float32 below a quarter of it


# rho, weight, temperature, eps (a number, a tensor, or None where the batch's rows are not yet
# known) and the dims to count over, checked.
_Settings = tuple[Tensor, float | Tensor, float | Tensor, Any, tuple[int, ...]]


def _composed(z: Tensor, settings: _Settings, batch_mean: BatchMean | None = None) -> Tensor:
    """The penalty as the notebooks build it; autograd finds its gradient."""
    rho, weight, temperature, eps, dims = settings
    rho_hat = straight_through(z, temperature, dim=dims)
    if batch_mean is not None:
        part = z.numel() // rho_hat.numel()
        rho_hat = batch_mean(rho_hat, part)
        if eps is None:
            rows = getattr(rho_hat, "rows", part)
            eps = unbiased_eps(rho, torch.as_tensor(rows).clamp(min=1))
    return (weight * _kl(squeeze(rho_hat, eps), rho)).sum(-1)


class _OneNode(torch.autograd.Function):
    """`_composed`, its gradient in closed form: half of the operations, and one buffer per pass.

    Whatever asks for more than this gradient, a second derivative say, gets the composition's.
    """

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
        differentiable = torch.is_grad_enabled()
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

    Its derivative by rho_hat, (rho_hat - rho) / (rho_hat (1 - rho_hat)), grows without bound
    at 0 and 1: keep rho_hat inside (0, 1) before you train on it.

    Args:
        rho_hat: activation frequencies (..., L) in [0, 1].
        rho: target frequency, in (0, 1); a tensor is broadcast against rho_hat.

    Returns:
        (..., L), >= 0, exactly 0 at rho_hat = rho, inf at 0 and 1. Outside [0, 1], where
        there is no frequency, NaN; a frequency counted over the right rows is never there.
        Elsewhere the error is below 6 eps (KL + |rho_hat - rho|), with eps of float32 or better.

    Source: Ng, CS294A lecture notes, Sparse autoencoder.

    Example:
        >>> bernoulli_kl(torch.tensor([0.0, 0.2, 0.5]), rho=0.2)
        tensor([   inf, 0.0000, 0.1927])
    """
    check_tensor("rho_hat", rho_hat, dims=1)
    target = in_single(check_rho(rho, like=rho_hat, shape=rho_hat.shape))
    return _kl(in_single(rho_hat), target).to(rho_hat.dtype)


def _kl(rho_hat: Tensor, rho: Tensor) -> Tensor:
    """The formula of `bernoulli_kl`, and rho (on - 1) + (1 - rho) (off - 1), which is 0.

    x - 1 - ln x is never negative, so that rounding cannot push the sum below 0.
    """
    one = torch.ones_like(rho)  # as operations with a number take twice as long on few units
    rest = one - rho
    on, off = rho_hat / rho, (one - rho_hat) / rest
    return torch.addcmul(rest * (off - one - off.log()), rho, on - one - on.log())


def bernoulli_kl_with_logits(logits: Tensor, *, rho: float | Tensor) -> Tensor:
    """KL(Bernoulli(rho) || Bernoulli(sigmoid(logits))) in nats, one value per unit.

    Binary cross-entropy with rho as its target, minus the entropy of rho. Its derivative by the
    logit, sigmoid(logit) - rho, lies in (-1, 1): nothing has to be kept away from 0 and 1.

    Args:
        logits: ln(rho_hat / (1 - rho_hat)), (..., L), finite; see `soft_frequency_logits`.
        rho: target frequency, in (0, 1); a tensor is broadcast against logits.

    Returns:
        (..., L), >= 0 up to rounding, finite for finite logits.

    Example:
        >>> bernoulli_kl_with_logits(torch.tensor([-100.0, 0.0]), rho=0.2)
        tensor([19.4996,  0.1927])
    """
    exact = in_single(check_tensor("logits", logits, dims=1))
    target = check_rho(rho, like=exact, shape=exact.shape)
    # Cross-entropy minus entropy, grouped so that little is left to cancel near the target.
    at_target = torch.logit(target)
    zero = torch.zeros_like(exact)  # ln(1 + e^x): torch's softplus drops digits beyond 20
    softplus = torch.logaddexp(exact, zero) - torch.logaddexp(at_target, zero)
    return (softplus - target * (exact - at_target)).to(logits.dtype)
