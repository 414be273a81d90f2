"""Penalties: formulas of a frequency, one value a unit, and the recommended one in a call."""

import torch
from torch import Tensor

from saetools.data.checks import check_number, check_rho, check_tensor
from saetools.frequency import BatchMean, Dims, frequency_in_parts, smooth


def frequency_penalty(
    pre_activations: Tensor,
    *,
    rho: float | Tensor,
    weight: float | Tensor = 1.0,
    temperature: float | Tensor = 0.3,
    eps: float = 1e-3,
    dim: Dims | None = None,
    batch_mean: BatchMean | None = None,
) -> Tensor:
    """The penalty this series recommends: add it to the loss, and each unit fires at rate rho.

    The Kullback-Leibler divergence of the asked frequency from the counted one, summed over
    the units: `bernoulli_kl` of the `smooth` `straight_through_frequency`. It works best from a
    start at which each unit has a spread of 1 and fires at rate rho: see init.py.

    Args:
        pre_activations: what the code's layer returns, before the ReLU, units last, (..., L).
        rho: the share of the rows on which a unit is to be active, in (0, 1); a tensor is
            broadcast against the units, for instance (L,) for one a unit.
        weight: factor of each unit's divergence; a tensor is broadcast as rho is.
        temperature: > 0, of the sigmoid whose slope stands in for the count's, in the units of
            pre_activations: 0.3 suits a spread of 1.
        eps: > 0 and < 0.5; bounds the pull on a unit that is never or always on.
        dim: the dim or dims to count over: by default all but the last, so that (B, L) and
            sequences (B, T, L) give a scalar. In an ensemble (N, B, L) it is -2.
        batch_mean: where the batch is cut into parts, what makes the frequency of all of it from
            that of this part and its number of rows: `over_ranks`, a `RunningFrequency`, or
            what `backward_in_parts` gives. A part may then be without a row.

    Returns:
        A scalar, or one value for each dim that is not counted over: (N,) in an ensemble.

    Raises:
        TypeError, ValueError: if an argument is not as above.

    Source: the KL penalty of Ng, CS294A lecture notes, Sparse autoencoder, on a count with a
    straight-through gradient (Bengio, Léonard and Courville 2013, arXiv 1308.3432).

    Example:
        >>> z = torch.tensor([[1.0, -0.2], [-1.0, -0.2]], requires_grad=True)
        >>> loss = frequency_penalty(z, rho=0.5)  # on half of the rows: the second unit never is
        >>> loss.backward()
        >>> loss.item() > 2, bool((z.grad[:, 1] < 0).all())  # and is pulled up
        (True, True)
    """
    check_tensor("pre_activations", pre_activations, dims=2, may_be_empty=batch_mean is not None)
    if dim is None:
        dim = tuple(range(pre_activations.ndim - 1))
    if not isinstance(weight, Tensor):
        check_number("weight", weight, minimum=0)
    rho_hat = frequency_in_parts(pre_activations, temperature, dim=dim, batch_mean=batch_mean)
    return (weight * bernoulli_kl(smooth(rho_hat, eps), rho=rho)).sum(-1)


def bernoulli_kl(rho_hat: Tensor, *, rho: float | Tensor) -> Tensor:
    """KL(Bernoulli(rho) || Bernoulli(rho_hat)) in nats, one value a unit.

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

    Raises:
        TypeError: if rho_hat is not a floating tensor.
        ValueError: if rho_hat is empty, or rho is not in (0, 1).

    Source: Ng, CS294A lecture notes, Sparse autoencoder.

    Example:
        >>> bernoulli_kl(torch.tensor([0.0, 0.2, 0.5]), rho=0.2)
        tensor([   inf, 0.0000, 0.1927])
    """
    check_tensor("rho_hat", rho_hat, dims=1)
    exact = torch.promote_types(rho_hat.dtype, torch.float32)
    target = check_rho(rho, like=rho_hat, shape=rho_hat.shape).to(exact)
    estimate = rho_hat.to(exact)
    # x - 1 - ln x is never negative, so rounding cannot push the sum below 0; what it adds to the
    # formula above cancels: rho (on - 1) + (1 - rho) (off - 1) = 0.
    rest = 1 - target
    on, off = estimate / target, (1 - estimate) / rest
    kl = torch.addcmul(rest * (off - 1 - torch.log(off)), target, on - 1 - torch.log(on))
    return kl.to(rho_hat.dtype)


def bernoulli_kl_with_logits(logits: Tensor, *, rho: float | Tensor) -> Tensor:
    """KL(Bernoulli(rho) || Bernoulli(sigmoid(logits))) in nats, one value a unit.

    Binary cross-entropy with rho as its target, minus the entropy of rho. Its derivative by the
    logit, sigmoid(logit) - rho, lies in (-1, 1): nothing has to be kept away from 0 and 1.

    Args:
        logits: ln(rho_hat / (1 - rho_hat)), (..., L), finite; see `soft_frequency_logits`.
        rho: target frequency, in (0, 1); a tensor is broadcast against logits.

    Returns:
        (..., L), >= 0 up to rounding, finite for finite logits.

    Raises:
        TypeError: if logits is not a floating tensor.
        ValueError: if logits is empty, or rho is not in (0, 1).

    Example:
        >>> bernoulli_kl_with_logits(torch.tensor([-100.0, 0.0]), rho=0.2)
        tensor([19.4996,  0.1927])
    """
    check_tensor("logits", logits, dims=1)
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    target = check_rho(rho, like=exact, shape=exact.shape)
    # Cross-entropy minus entropy, grouped so that little is left to cancel near the target.
    at_target = torch.logit(target)
    zero = torch.zeros_like(exact)  # ln(1 + e^x): torch's softplus drops digits beyond 20
    softplus = torch.logaddexp(exact, zero) - torch.logaddexp(at_target, zero)
    kl = softplus - target * (exact - at_target)
    return kl.to(logits.dtype)
