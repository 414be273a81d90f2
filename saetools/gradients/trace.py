"""The way in: a block whose operations, and backward passes, are looked at."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.optim import Optimizer

from saetools.gradients.findings import Trace
from saetools.gradients.optimizers import as_list
from saetools.gradients.tracer import Tracer
from saetools.gradients.verdict import Verdict


@contextmanager
def trace_gradients(
    model: nn.Module | None = None, optimizer: Optimizer | Iterable[Optimizer] | None = None
) -> Iterator[Trace]:
    """Say where the code in the block loses a gradient.

    Findings are of these kinds. "cut": an input requires a gradient, the result does not, and its
    value is a term of the loss, or all that a parameter of `model` sends to any loss. "zeroed": a
    gradient arrives at an operation and nothing but zeros leaves, and some leaf gets nothing
    else; or a unit, or an entry of a parameter, is beyond the bound of a ReLU or a clamp with
    evidence that it will stay there. "not finite": the first operation that makes NaN or infinity
    out of finite numbers, in value or in slope. "detached parameter": the block uses it, and no
    loss reaches it. With an optimizer also "not optimized": it gets a gradient and no optimizer
    holds it; "cleared": gradients were cleared between the backward pass and the step. "no leaf":
    the .grad of a tensor was read that can have none.

    All but cuts need a backward pass in the block. Where none was seen, every cut is a finding,
    but for straight-through estimators.

    What may be on purpose is set aside, in `not_accused`: numbers that left the graph (`.item()`
    and its like cannot be followed, but a number that comes back with all its digits is
    recognised), losses at their floor, units that are silent in one batch, straight-through
    estimators, stopped gradients and masks.

    Values, gradients and random numbers of the traced code stay as they are, to the last bit,
    but for transformer layers in evaluation mode, which torch computes another way while any such
    mode is on. Other threads are not seen. Inside custom autograd Functions, reentrant
    checkpoints and TorchScript nothing is looked at: what goes in and what comes out is.

    Args:
        model: what is to be trained. Give it: a cut in front of a layer looks like a mask, but
            for the parameters behind it that no loss reaches.
        optimizer: one, or several: whether they hold the parameters that get a gradient.

    Yields:
        Trace, filled when the block ends: cuts first, then the rest, each in the order of the
        code; the same line is reported once.

    Raises:
        RuntimeError: in the block, at code that torch.compile has made, which hides what it does.

    Example:
        >>> import torch
        >>> x = torch.ones(4, requires_grad=True)
        >>> with trace_gradients() as trace:
        ...     frequency = (x > 0).float().mean()
        >>> [(finding.kind, finding.op) for finding in trace.findings]
        [('cut', 'Tensor.gt')]
    """
    trace = Trace()
    tracer = Tracer(model, as_list(optimizer))
    try:
        with tracer:
            yield trace
    finally:
        Verdict(tracer).write(trace)
