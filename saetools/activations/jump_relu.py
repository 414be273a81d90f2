"""A threshold per latent that is learned by gradient, through a rectangle."""

import math

import torch
from torch import Tensor, nn

from saetools.activations.state import PerLatent, against, rows_of
from saetools.data.checks import check_count, check_number
from saetools.frequency import in_single, rectangle_step, step_frequency


class JumpReLU(PerLatent):
    """Passes z where z > theta, and 0 elsewhere; theta, (L,), is learned.

    By z the gradient is 1 where z passes. By theta it is -(theta / bandwidth) K((z - theta) /
    bandwidth) with K the rectangle kernel, 1 on (-1/2, 1/2). The thresholds are the exponential of
    the parameter `log_threshold`.

    Source: Rajamanoharan et al. 2024, arXiv 2407.14435.

    Args:
        latents: L.
        threshold: > 0, where all thresholds start, in the units of z.
        bandwidth: > 0, in the same units. The paper's 0.001 for both suits rows with a mean square
            of 1 / D; for a spread of z about 1, a third of that spread is better.

    Example:
        >>> jump = JumpReLU(1, threshold=0.5, bandwidth=0.2)
        >>> z = torch.tensor([[0.45], [0.55], [2.0]])
        >>> jump(z).tolist()
        [[0.0], [0.550000011920929], [2.0]]
        >>> jump(z).sum().backward()  # two rows lie within 0.1 of theta: -2 (0.5 / 0.2) by theta
        >>> jump.log_threshold.grad  # times theta, for the logarithm
        tensor([-2.5000])
    """

    def __init__(self, latents: int, *, threshold: float = 1e-3, bandwidth: float = 1e-3) -> None:
        super().__init__()
        start = math.log(check_number("threshold", threshold, above=0))
        self.bandwidth = check_number("bandwidth", bandwidth, above=0)
        self.log_threshold = nn.Parameter(torch.full((check_count("latents", latents),), start))

    @property
    def theta(self) -> Tensor:
        """The thresholds (L,), or (N, L) in an ensemble."""
        return self.log_threshold.exp()

    def forward(self, pre_activations: Tensor) -> Tensor:
        """Latents (..., L)."""
        z = pre_activations
        rows_of(z, self.log_threshold)  # for its error
        theta = against(self.theta, z)
        soft = rectangle_step((z.detach() - theta) / self.bandwidth)
        jump = theta.detach() * (soft - soft.detach())  # 0, with the slope of the jump
        return (z.masked_fill(z <= theta, 0) + jump).to(z.dtype)

    def l0_penalty(self, pre_activations: Tensor, l0: float) -> Tensor:
        """(L0 / l0 - 1)^2, to be weighted and added to the loss; its gradient reaches theta alone.

        L0 is the mean number of latents (..., L) that are active in a row; in an ensemble there is
        a value per member, (N,). By theta it is counted with the kernel, -K(...) / bandwidth.
        """
        check_number("l0", l0, above=0)
        z = in_single(rows_of(pre_activations.detach(), self.log_threshold))
        theta = self.theta.unsqueeze(-2)
        return (step_frequency(z, self.bandwidth, threshold=theta).sum(-1) / l0 - 1).square()
