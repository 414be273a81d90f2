"""Penalties: pure functions of a frequency, one value a unit."""

import torch
from torch import Tensor

from saetools._checks import check_rho, check_tensor


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
    target, estimate = check_rho(rho, like=rho_hat).to(exact), rho_hat.to(exact)
    # x - 1 - ln x is never negative, so rounding cannot push the sum below 0; what it adds to the
    # formula above cancels: rho (on - 1) + (1 - rho) (off - 1) = 0.
    on, off = estimate / target, (1 - estimate) / (1 - target)
    kl = target * (on - 1 - torch.log(on)) + (1 - target) * (off - 1 - torch.log(off))
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
    target = check_rho(rho, like=exact)
    # Cross-entropy minus entropy, grouped so that little is left to cancel near the target.
    at_target = torch.logit(target)
    zero = torch.zeros_like(exact)  # ln(1 + e^x): torch's softplus drops digits beyond 20
    softplus = torch.logaddexp(exact, zero) - torch.logaddexp(at_target, zero)
    kl = softplus - target * (exact - at_target)
    return kl.to(logits.dtype)
