"""Soft steps: functions that rise from 0 to 1, in place of the step from off to on at 0.

The slope of a soft step is the kernel through which a gradient sees the step. Since each rises by
1, its slope integrates to 1, at every temperature or bandwidth it is used with. `torch.sigmoid`
is one more.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

SoftStep = Callable[[Tensor], Tensor]


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
