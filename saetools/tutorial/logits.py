"""The penalty in log space, one of the ways in which notebook 04 keeps it off 0 and 1."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from saetools.data.checks import check_positive, check_rho, check_tensor
from saetools.frequency import Dims, in_single


def soft_frequency_logits(
    pre_activations: Tensor, temperature: float | Tensor, *, dim: Dims = -2
) -> Tensor:
    """ln(rho_hat / (1 - rho_hat)) of the sigmoid's `soft_frequency`, computed in log space.

    It stays finite, and keeps its gradient, where the frequency itself rounds to 0 or 1.
    Arguments and result are as for `soft_frequency`.

    Example:
        >>> from saetools import soft_frequency
        >>> z = torch.full((8, 1), -300.0)
        >>> soft_frequency(z, 1.0), soft_frequency_logits(z, 1.0)
        (tensor([0.]), tensor([-300.]))
    """
    z = in_single(check_tensor("pre_activations", pre_activations, dims=2))
    u = z / check_positive("temperature", temperature, like=z)
    # The rows' number cancels between the means of sigmoid(u) and of 1 - sigmoid(u).
    return torch.logsumexp(logsigmoid(u), dim) - torch.logsumexp(logsigmoid(-u), dim)


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
