"""Checks of notebook 03."""

from collections.abc import Callable

import torch
from torch import Tensor

from saetools.tutorial.exercises.feedback import exercise, gradient, is_close, wrong_shape


@exercise(1)
def check_straight_through(answer: Callable[[Tensor, float], Tensor]) -> str | None:
    """Notebook 03, exercise 1: the hard count with the gradient of a ramp of width 6 T."""
    z = torch.tensor([[-2.0, -0.2], [-0.5, 0.1], [0.3, 0.4], [1.0, -0.1]], requires_grad=True)
    got = answer(z * 1, 0.3)
    if mistake := wrong_shape(got, (2,), "one number per unit for z of shape (4, 2)"):
        return mistake
    if is_close(got, (z / 1.8 + 0.5).clamp(0, 1).mean(0)):
        return "that is the soft count: its value must be the hard one, its gradient the ramp's."
    if not is_close(got, torch.full((2,), 0.5)):
        return f"the value must be the hard count, [0.5, 0.5], got {got.tolist()}."
    if not got.requires_grad:
        return "the value is right, and there is no gradient: add soft - soft.detach()."
    pull, ramp = gradient(got, z), (z.detach().abs() < 0.9).float() / 1.8 / 4
    if not pull.any():
        return "no gradient arrives at z: detach only the copy of soft that is subtracted."
    if is_close(pull, -ramp):
        return "the gradient has the wrong sign: detach the soft that is subtracted."
    if is_close(pull, ramp * 1.8):
        return "the gradient lacks the factor 1 / (6 T): divide z by 6 T inside the ramp."
    if not is_close(pull, ramp):
        return f"the gradient must be that of the ramp, {ramp.tolist()}, got {pull.tolist()}."
    return None


@exercise(2)
def check_rectangle_slope(answer: Callable[[Tensor, float], Tensor]) -> str | None:
    """Notebook 03, exercise 2: a rectangle kernel whose area is 1 at every bandwidth."""
    z = torch.linspace(-2, 2, 40_001, dtype=torch.float64)
    for bandwidth in (1.0, 0.1):
        slope = answer(z, bandwidth)
        if mistake := wrong_shape(slope, (40_001,), "one number for each z"):
            return mistake
        window = z[slope.double() != 0]
        if len(window) == 0:
            return "the slope is 0 everywhere: rows near 0 must be weighted."
        width = (window.max() - window.min()).item()
        if abs(width - bandwidth) > 0.01 * bandwidth:
            return (
                f"with a bandwidth of {bandwidth:g} the window is {width:.2g} wide: "
                "it goes from -bandwidth / 2 to bandwidth / 2."
            )
        area = torch.trapezoid(slope.double(), z).item()
        if abs(area - 1) > 0.01:
            return (
                f"with a bandwidth of {bandwidth:g} the area is {area:.2g}, not 1: a window "
                "that is narrower must be higher."
            )
    return None
