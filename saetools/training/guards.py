"""What every loop checks: its settings, what functions return, and that all is finite."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from saetools.data.checks import (
    check_count,
    check_function,
    check_kind,
    check_module,
    check_number,
    check_returned,
)
from saetools.training.progress import Bar

Weight = float | Callable[[float], float]

NOT_FINITE_GRADIENT = (
    "a gradient is not finite at step {step} (counted from 0), although the loss is: the weights "
    "hold NaN or infinity. A root or a logarithm at 0 in the penalty does this"
)


def not_finite(model: nn.Module, step: int, error: Tensor, cost: Tensor) -> str:
    """What to say where a loss is not finite."""
    if not weights_are_finite(model):
        return NOT_FINITE_GRADIENT.format(step=step - 1)
    terms = {"squared error": error.item(), "penalty": cost.item()}
    guilty = [name for name, value in terms.items() if not math.isfinite(value)]
    return (
        f"the {' and the '.join(guilty) or 'sum of squared error and penalty'} is not finite at "
        f"step {step} (counted from 0): squared error {terms['squared error']:.2g}, "
        f"penalty {terms['penalty']:.2g}; training has stopped. "
        f"{_half(model)}Pass stop_if_not_finite=False to go on regardless"
    )


def _half(model: nn.Module) -> str:
    if all(weight.dtype != torch.float16 for weight in model.parameters()):
        return ""
    return "Adam overflows on weights in float16: keep them in float32, under torch.autocast. "


def weights_are_finite(model: nn.Module) -> bool:
    """Whether no parameter holds NaN or infinity."""
    return all(bool(weight.isfinite().all()) for weight in model.parameters())


_FUNCTIONS = {
    "loss": "lambda model, batch: (mse_loss(model(batch), batch), None)",
    "penalty": "lambda output: frequency_penalty(output.pre_activations, rho=0.2)",
    "observe": "lambda model: evaluate(model, x).fvu",
    "scheduler": "lambda adam: LinearLR(adam, 1.0, 0.0, total_iters=1000)",
}


def check_loop(call: Mapping[str, Any]) -> None:
    """Raise for a setting of any loop that is wrong, before anything changes."""
    for name in ("steps", "batch_size", "observe_every", "checkpoint_every"):
        check_count(name, call[name])
    check_number("lr", call["lr"], above=0)
    weight_at(call["weight"], 0.0)
    for name, example in _FUNCTIONS.items():
        if (given := call.get(name)) is not None:
            check_function(name, given, such_as=example)
    check_kind("progress", call["progress"], bool | Bar, "True or False")
    if not torch.is_grad_enabled():
        raise RuntimeError("gradients are switched off: train outside of torch.no_grad()")
    if "model" in call:
        check_module("model", call["model"])
        if not any(parameter.requires_grad for parameter in call["model"].parameters()):
            raise ValueError("model must have a parameter that requires a gradient, got none")
    if call["checkpoint"] is not None and not isinstance(call["x"], Tensor):
        raise ValueError("checkpoint needs x as a tensor, whose rows it can find again")


def weight_at(weight: Weight, done: float) -> float:
    """The penalty's weight when a share `done` of the steps is done."""
    return check_number("weight", weight(done) if callable(weight) else weight, minimum=0)


def check_terms(terms: Any) -> tuple[Tensor, Any]:
    """What a loss has returned, if it is an error, a scalar, and what the penalty is given."""
    if isinstance(terms, tuple) and len(terms) == 2:
        error, output = terms
        if isinstance(error, Tensor) and error.shape == ():
            return error, output
        terms = getattr(error, "shape", error)
    raise TypeError(f"loss must return a scalar, and what the penalty is given, got {terms!r:.80}")


def check_cost(cost: Any, shape: tuple[int, ...]) -> Tensor:
    """What a penalty has returned, if it has one value per member."""
    units = "a sum over the units (dim -1; frequency_penalty: dim=-2)"
    how = f"a mean over the rows (dim -2) and {units}"
    return check_returned("penalty", cost, shape, how)
