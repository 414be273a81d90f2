"""How often a unit is active: the hard count, and estimates of it that carry a gradient.

Every estimate is built on a soft step (see soft_steps.py), whose slope is its gradient.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from saetools.data.checks import check_positive, check_tensor

SoftStep = Callable[[Tensor], Tensor]  # rises from 0 to 1; its slope is the kernel
Dims = int | tuple[int, ...]
BatchMean = Callable[[Tensor, int], Tensor]  # from a part's mean and its rows to the whole batch's


def tanh_step(u: Tensor) -> Tensor:
    """(1 + tanh(u)) / 2, which is sigmoid(2 u): the sigmoid at half the temperature.

    Example:
        >>> tanh_step(torch.zeros(1))
        tensor([0.5000])
    """
    return (1 + torch.tanh(u)) / 2


def hard_sigmoid_step(u: Tensor) -> Tensor:
    """u / 6 + 1/2, clamped to [0, 1]: no gradient beyond 3 temperatures from the threshold.

    Example:
        >>> hard_sigmoid_step(torch.tensor([-3.0, 0.0, 3.0]))
        tensor([0.0000, 0.5000, 1.0000])
    """
    return torch.nn.functional.hardsigmoid(u)


def rectangle_step(u: Tensor) -> Tensor:
    """u + 1/2, clamped to [0, 1]; its slope is the rectangle kernel, 1 on (-1/2, 1/2).

    Example:
        >>> rectangle_step(torch.tensor([-0.5, 0.0, 0.5]))
        tensor([0.0000, 0.5000, 1.0000])
    """
    return (u + 0.5).clamp(0, 1)


def triangle_step(u: Tensor) -> Tensor:
    """Its slope is the triangle kernel, 1 - |u| on (-1, 1).

    Example:
        >>> triangle_step(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([0.0000, 0.5000, 1.0000])
    """
    u = u.clamp(-1, 1)
    return 0.5 + u - u * u.abs() / 2


def gaussian_step(u: Tensor) -> Tensor:
    """Its slope is the Gaussian kernel, the density of the standard normal distribution.

    Example:
        >>> gaussian_step(torch.zeros(1))
        tensor([0.5000])
    """
    return torch.erfc(u * -math.sqrt(0.5)) / 2


def activation_frequency(pre_activations: Tensor, *, dim: Dims = -2) -> Tensor:
    """Share of the rows on which each unit is active, that is, its pre-activation is > 0.

    The hard count, the one that is reported. It carries no gradient: a comparison has none.

    Args:
        pre_activations: (..., B, L). Latents behind a ReLU give the same count.
        dim: the dim or dims to average over, the batch by default.

    Returns:
        (..., L) in [0, 1], float32 or better, without a gradient. NaN counts as not active.

    Raises:
        TypeError: if pre_activations is not a floating tensor.
        ValueError: if it is empty or has fewer than two dims.

    Example:
        >>> import torch
        >>> activation_frequency(torch.tensor([[1.0, -1.0], [2.0, 3.0]]))
        tensor([1.0000, 0.5000])
    """
    check_tensor("pre_activations", pre_activations, dims=2)
    # Comparing in place is several times faster than through a tensor of bools.
    return _mean(_exact(pre_activations).detach().clone().gt_(0), dim)


def soft_frequency(
    pre_activations: Tensor,
    temperature: float | Tensor,
    *,
    step: SoftStep = torch.sigmoid,
    dim: Dims = -2,
) -> Tensor:
    """Mean over the rows of step(z / temperature): a count whose threshold is smeared out.

    It has a gradient, and it is not the frequency: it can be rho while the hard count is 0.

    Args:
        pre_activations: z, (..., B, L), before the ReLU: behind it, sigmoid(z) is >= 1/2.
        temperature: > 0, in the units of z; a tensor is broadcast against z, for instance
            (N, 1, 1) for one temperature a member of an ensemble.
        step: a soft step, applied elementwise.
        dim: the dim or dims to average over, the batch by default.

    Returns:
        (..., L) in [0, 1], float32 or better.

    Raises:
        TypeError: if pre_activations is not a floating tensor or temperature no number.
        ValueError: if pre_activations is empty or has fewer than two dims, or temperature is
            not a finite number greater than 0.

    Source: with a sigmoid, the mean activation of Ng, CS294A lecture notes, Sparse autoencoder.

    Example:
        >>> soft_frequency(torch.tensor([[1.0, -0.2], [2.0, -0.2]]), 0.3)
        tensor([0.9821, 0.3392])
    """
    check_tensor("pre_activations", pre_activations, dims=2)
    z = _exact(pre_activations)
    return _mean(step(z / check_positive("temperature", temperature, like=z)), dim)


def straight_through_frequency(
    pre_activations: Tensor,
    temperature: float | Tensor,
    *,
    step: SoftStep = torch.sigmoid,
    dim: Dims = -2,
) -> Tensor:
    """The hard count, with the gradient of `soft_frequency` in place of its own, which is 0.

    Args:
        pre_activations: (..., B, L), before the ReLU.
        temperature: > 0, in the units of the pre-activations; it decides how near to 0 a
            pre-activation must be to be pulled. A tensor is broadcast against them.
        step: a soft step, applied elementwise.
        dim: the dim or dims to average over, the batch by default.

    Returns:
        (..., L) in [0, 1], equal to activation_frequency, float32 or better. NaN gives NaN.

    Raises:
        TypeError, ValueError: as soft_frequency does.

    Source: Bengio, Léonard and Courville 2013, arXiv 1308.3432.

    Example:
        >>> z = torch.tensor([[1.0, -0.2], [2.0, -0.2]], requires_grad=True)
        >>> rho_hat = straight_through_frequency(z, 0.3)
        >>> rho_hat.tolist()
        [1.0, 0.0]
        >>> rho_hat.sum().backward()
        >>> bool((z.grad > 0).all())
        True
    """
    soft = soft_frequency(pre_activations, temperature, step=step, dim=dim)
    return activation_frequency(pre_activations, dim=dim) + (soft - soft.detach())


def frequency_in_parts(
    pre_activations: Tensor,
    temperature: float | Tensor,
    *,
    dim: Dims = -2,
    batch_mean: BatchMean | None,
) -> Tensor:
    """`straight_through_frequency` of the whole batch, of which these rows are a part.

    Args:
        pre_activations: (..., B, L), before the ReLU; with a `whole`, B may be 0.
        temperature: as for straight_through_frequency.
        dim: the dim or dims to average over, the batch by default.
        batch_mean: as for `frequency_penalty`; None where these rows are the whole batch.

    Returns:
        What `whole` makes of (..., L).

    Raises:
        TypeError, ValueError: as soft_frequency does.

    Example:
        >>> z = torch.tensor([[1.0], [-1.0]])
        >>> frequency_in_parts(z, 0.3, batch_mean=lambda part, rows: (rows * part + 6) / 8)
        tensor([0.8750])
    """
    if batch_mean is None:
        return straight_through_frequency(pre_activations, temperature, dim=dim)
    check_tensor("pre_activations", pre_activations, dims=2, may_be_empty=True)
    if pre_activations.numel() > 0:
        rho_hat = straight_through_frequency(pre_activations, temperature, dim=dim)
    else:
        rho_hat = pre_activations.sum(dim)  # of no rows, and still joined to the model
    return batch_mean(rho_hat, pre_activations.numel() // rho_hat.numel())


def step_frequency(
    pre_activations: Tensor,
    bandwidth: float | Tensor,
    *,
    step: SoftStep = rectangle_step,
    threshold: float | Tensor = 0.0,
    dim: Dims = -2,
) -> Tensor:
    """The share of rows above a threshold, with a kernel of some bandwidth as its gradient.

    The derivative by the threshold is -K((z - threshold) / bandwidth) / bandwidth, averaged
    over the rows, where K is the slope of `step`: an unbiased estimate of the derivative of
    the kernel-smoothed count. The one by z is its opposite.

    Args:
        pre_activations: z, (..., B, L), before the ReLU.
        bandwidth: > 0, in the units of z; a tensor is broadcast against z.
        step: the soft step whose slope is the kernel: rectangle_step,
            triangle_step, gaussian_step or another.
        threshold: what z must exceed; a tensor is broadcast against z, and may be learned.
        dim: the dim or dims to average over, the batch by default.

    Returns:
        (..., L) in [0, 1], the hard share, float32 or better.

    Raises:
        TypeError, ValueError: as soft_frequency does, for bandwidth in temperature's place.

    Source: Rajamanoharan et al. 2024 (JumpReLU), arXiv 2407.14435.

    Example:
        >>> z = torch.tensor([[0.04], [0.2], [-0.03], [-1.0]])
        >>> threshold = torch.zeros(1, requires_grad=True)
        >>> step_frequency(z, 0.1, threshold=threshold).backward()
        >>> threshold.grad  # two of four rows lie within 0.05 of it: -(2 / 4) / 0.1
        tensor([-5.])
    """
    check_tensor("pre_activations", pre_activations, dims=2)
    z = _exact(pre_activations)
    return straight_through_frequency(
        z - threshold,
        check_positive("bandwidth", bandwidth, like=z),
        step=step,
        dim=dim,
    )


def soft_frequency_logits(
    pre_activations: Tensor, temperature: float | Tensor, *, dim: Dims = -2
) -> Tensor:
    """ln(rho_hat / (1 - rho_hat)) of the sigmoid's `soft_frequency`, computed in log space.

    It stays finite, and keeps its gradient, where the frequency itself rounds to 0 or 1.

    Args:
        pre_activations: (..., B, L), before the ReLU.
        temperature: > 0, in the units of the pre-activations; a tensor is broadcast.
        dim: the dim or dims to average over, the batch by default.

    Returns:
        (..., L), float32 or better.

    Raises:
        TypeError, ValueError: as soft_frequency does.

    Example:
        >>> z = torch.full((8, 1), -300.0)
        >>> soft_frequency(z, 1.0), soft_frequency_logits(z, 1.0)
        (tensor([0.]), tensor([-300.]))
    """
    check_tensor("pre_activations", pre_activations, dims=2)
    z = _exact(pre_activations)
    u = z / check_positive("temperature", temperature, like=z)
    # The rows' number cancels between the means of sigmoid(u) and of 1 - sigmoid(u).
    return torch.logsumexp(logsigmoid(u), dim) - torch.logsumexp(logsigmoid(-u), dim)


def smooth(rho_hat: Tensor, eps: float = 1e-3) -> Tensor:
    """Squeeze frequencies from [0, 1] into [eps, 1 - eps]: eps + (1 - 2 eps) rho_hat.

    Unlike torch.clamp it keeps the gradient of a unit that is dead or always on. With
    eps = 1 / (B + 2) it is Laplace's add-one count of B rows, (active + 1) / (B + 2).

    Args:
        rho_hat: frequencies in [0, 1], any shape.
        eps: > 0 and < 0.5; it sets the largest push: the KL's slope at 0 is near -rho / eps.

    Returns:
        The shape of rho_hat, float32 or better: in bfloat16, 1 - 1e-3 would be 1 again.

    Raises:
        TypeError, ValueError: if rho_hat is not a floating tensor, or eps is not as above.

    Example:
        >>> smooth(torch.tensor([0.0, 0.5, 1.0]), 0.01)
        tensor([0.0100, 0.5000, 0.9900])
    """
    if not check_positive("eps", eps) < 0.5:
        raise ValueError(f"eps must be less than 0.5, got {eps}")
    exact = _exact(check_tensor("rho_hat", rho_hat, dims=0))
    half = exact.new_full((), 0.5)
    return exact.lerp(half, 2 * eps)  # 2 eps of the way to 1/2: one operation, not two


def _mean(rows: Tensor, dim: Dims) -> Tensor:
    """`rows.mean(dim)`, whose own backward would write out the same slope for every row."""
    total = rows.sum(dim)
    return total / (rows.numel() // total.numel())


def _exact(z: Tensor) -> Tensor:
    """`z` in float32 or better, in which a mean over many rows keeps its digits."""
    return z.to(torch.promote_types(z.dtype, torch.float32))
