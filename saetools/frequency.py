"""How often a unit is active: the hard count, and estimates of it that carry a gradient.

Each is built on a soft step, which rises from 0 to 1; its slope is the gradient's kernel.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from saetools.data.checks import (
    check_broadcast,
    check_function,
    check_number,
    check_positive,
    check_tensor,
)

SoftStep = Callable[[Tensor], Tensor]
Number = float | Tensor  # one for all, or a tensor that is broadcast
Dims = int | tuple[int, ...]
# (mean of a part, its rows) -> mean of the batch, whose attribute `rows` may be the batch's rows
BatchMean = Callable[[Tensor, int], Tensor]


def tanh_step(u: Tensor) -> Tensor:
    """(1 + tanh(u)) / 2, which is sigmoid(2 u): the sigmoid at half the temperature."""
    return (1 + torch.tanh(u)) / 2


def rectangle_step(u: Tensor) -> Tensor:
    """u + 1/2, clamped to [0, 1]; its slope is the rectangle kernel, 1 on (-1/2, 1/2)."""
    return (u + 0.5).clamp(0, 1)


def gaussian_step(u: Tensor) -> Tensor:
    """Its slope is the Gaussian kernel, the density of the standard normal distribution."""
    return torch.erfc(u * -math.sqrt(0.5)) / 2


def activation_frequency(pre_activations: Tensor, *, dim: Dims = -2) -> Tensor:
    """Share of the rows on which each unit is active, that is, its pre-activation is > 0.

    The hard count, (..., L) in [0, 1], the one that is reported, of pre_activations (..., B, L) or
    of latents behind a ReLU, over `dim`, by default the batch. A comparison has no gradient, and
    NaN counts as not active. Like all estimates here it is float32 or better.

    Example:
        >>> activation_frequency(torch.tensor([[1.0, -1.0], [2.0, 3.0]]))
        tensor([1.0000, 0.5000])
    """
    z = in_single(check_tensor("pre_activations", pre_activations, dims=2))
    # Comparing in place is several times faster than through a tensor of bools.
    return mean_over(z.detach().clone().gt_(0), dim)


def soft_frequency(
    pre_activations: Tensor, temperature: Number, *, step: SoftStep = torch.sigmoid, dim: Dims = -2
) -> Tensor:
    """Mean over the rows of step(z / temperature): a count whose threshold is smeared out.

    It has a gradient, and it is not the frequency: it can be rho while the hard count is 0. With a
    sigmoid it is the mean activation of Ng, CS294A lecture notes, Sparse autoencoder.

    Args:
        pre_activations: z, (..., B, L), before the ReLU: behind it, sigmoid(z) is >= 1/2.
        temperature: > 0, in the units of z; a tensor is broadcast against z, as (N, 1, 1) is for
            one per member of an ensemble.
        step: a soft step, applied elementwise.
        dim: as for `activation_frequency`.

    Example:
        >>> soft_frequency(torch.tensor([[1.0, -0.2], [2.0, -0.2]]), 0.3)
        tensor([0.9821, 0.3392])
    """
    z = in_single(check_tensor("pre_activations", pre_activations, dims=2))
    return mean_over(_smear(z, check_positive("temperature", temperature, like=z), step), dim)


def straight_through_frequency(
    pre_activations: Tensor, temperature: Number, *, step: SoftStep = torch.sigmoid, dim: Dims = -2
) -> Tensor:
    """The hard count, with the gradient of `soft_frequency` in place of its own, which is 0.

    Arguments are as for `soft_frequency`; the temperature decides how near to 0 a pre-activation
    must be to be pulled. NaN gives NaN. Source: Bengio et al. 2013, arXiv 1308.3432.

    Example:
        >>> z = torch.tensor([[1.0, -0.2], [2.0, -0.2]], requires_grad=True)
        >>> rho_hat = straight_through_frequency(z, 0.3)
        >>> rho_hat.sum().backward()
        >>> rho_hat.tolist(), bool((z.grad > 0).all())
        ([1.0, 0.0], True)
    """
    z = in_single(check_tensor("pre_activations", pre_activations, dims=2))
    return straight_through(z, check_positive("temperature", temperature, like=z), step, dim)


def step_frequency(
    pre_activations: Tensor,
    bandwidth: Number,
    *,
    step: SoftStep = rectangle_step,
    threshold: Number = 0.0,
    dim: Dims = -2,
) -> Tensor:
    """The hard share of rows above a threshold, with a kernel of some bandwidth as its gradient.

    By the threshold it is -K((z - threshold) / bandwidth) / bandwidth, averaged over the rows,
    where K is the slope of `step`: an unbiased estimate of the derivative of the kernel-smoothed
    count. By z it is the opposite. Source: Rajamanoharan et al. 2024 (JumpReLU), arXiv 2407.14435.

    Args:
        pre_activations, dim: as for `soft_frequency`.
        bandwidth: as the temperature there.
        step: the soft step whose slope is the kernel.
        threshold: what z must exceed; a tensor is broadcast against z, and may be learned.

    Example:
        >>> z = torch.tensor([[0.04], [0.2], [-0.03], [-1.0]])
        >>> threshold = torch.zeros(1, requires_grad=True)
        >>> step_frequency(z, 0.1, threshold=threshold).backward()
        >>> threshold.grad  # two of four rows lie within 0.05 of it: -(2 / 4) / 0.1
        tensor([-5.])
    """
    z = in_single(check_tensor("pre_activations", pre_activations, dims=2))
    bandwidth = check_positive("bandwidth", bandwidth, like=z)
    if isinstance(threshold, Tensor):
        check_broadcast("threshold", threshold, z.shape, "pre_activations")
    else:
        check_number("threshold", threshold)
    return straight_through(z - threshold, bandwidth, step, dim)


def straight_through_gate(
    pre_activations: Tensor, temperature: Number, *, step: SoftStep = torch.sigmoid
) -> Tensor:
    """1 where z > 0 and else 0, each entry with the slope of step(z / temperature).

    The count's entries, before any mean: to multiply units by, as in pruning and spiking networks,
    or to put into a measure that needs yes or no, as F1. Any shape; NaN gives NaN. Arguments and
    source are as for `straight_through_frequency`.

    Example:
        >>> scores = torch.tensor([0.3, -0.1], requires_grad=True)
        >>> gate = straight_through_gate(scores, 0.3)
        >>> (gate * torch.tensor([5.0, 7.0])).sum().backward()
        >>> gate.tolist(), bool((scores.grad > 0).all())  # the gate that is shut learns as well
        ([1.0, 0.0], True)
    """
    z = check_tensor("pre_activations", pre_activations, dims=0)
    soft = _smear(z, check_positive("temperature", temperature, like=z), step)
    return is_above(z) + (soft - soft.detach())


def smooth(rho_hat: Tensor, eps: float = 1e-3) -> Tensor:
    """Squeeze frequencies from [0, 1] into [eps, 1 - eps]: eps + (1 - 2 eps) rho_hat.

    Unlike torch.clamp it keeps the gradient of a unit that is dead or always on; eps, in (0, 0.5),
    sets the largest push: the KL's slope at 0 is near -rho / eps. With eps = 1 / (B + 2) it is
    Laplace's add-one count of B rows, (active + 1) / (B + 2). It is in float32 or better.

    Example:
        >>> smooth(torch.tensor([0.0, 0.5, 1.0]), 0.01)
        tensor([0.0100, 0.5000, 0.9900])
    """
    exact = in_single(check_tensor("rho_hat", rho_hat, dims=0))
    return squeeze(exact, check_number("eps", eps, above=0, below=0.5))


def in_single(z: Tensor) -> Tensor:
    """`z` in float32 or better, in which a mean over many rows keeps its digits."""
    return z if z.dtype in (torch.float32, torch.float64) else z.float()


def mean_over(z: Tensor, dim: Dims) -> Tensor:
    """`z.mean(dim)`, 0 over no rows; the backward of z.mean writes its slope out for every row."""
    total = z.sum(dim)
    return total / max(z.numel() // total.numel(), 1)


def is_above(z: Tensor) -> Tensor:
    """1 where z > 0, else 0, without a gradient; unlike a comparison, it keeps NaN."""
    return z.detach().clamp(0, 1).ceil_()


def _smear(z: Tensor, temperature: Number, step: SoftStep) -> Tensor:
    check_function("step", step, such_as="torch.sigmoid")
    return step(z / temperature)


def hard_count(z: Tensor, dim: Dims) -> Tensor:
    """The share of z > 0."""
    return mean_over(is_above(z), dim)


def straight_through(
    z: Tensor,
    temperature: Number,
    step: SoftStep = torch.sigmoid,
    dim: Dims = -2,
    batch_mean: BatchMean | None = None,
) -> Tensor:
    """The hard count in value, the soft one in gradient; of a batch of which z may be a part."""
    soft = mean_over(_smear(z, temperature, step), dim)
    rho_hat = hard_count(z, dim) + (soft - soft.detach())
    return rho_hat if batch_mean is None else batch_mean(rho_hat, z.numel() // rho_hat.numel())


def squeeze(rho_hat: Tensor, eps: float | Tensor) -> Tensor:
    """eps + (1 - 2 eps) rho_hat, in one operation: 2 eps of the way to 1/2."""
    return rho_hat.lerp(rho_hat.new_full((), 0.5), 2 * eps)
