"""What the tracer knows of each tensor, operation and cut."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from saetools.gradients.calls import Call
from saetools.gradients.frames import Place

Terms = dict[tuple[int, bool], int]


@dataclass(slots=True, eq=False)
class Operation:
    """One call of a torch function."""

    order: int
    op: str  # its public name
    name: str  # the bare name
    place: Place
    layer: str = ""  # the module that called it, such as "model.5"
    bad: frozenset["Operation"] = frozenset()  # the first bad operations behind its value
    numbers: tuple[Any, ...] = ()  # the Python numbers among its arguments
    silence: Any = None  # units.Silence, if some of its units are silent
    by_entry: bool = False  # each entry of its input is a unit of its own
    why_bad: str = ""  # NaN was in the data, or in the weights, before
    half: bool = False  # it works in half precision
    masked: str = ""  # multiplied by nothing but zeros: by "one" number, or by a "mask"
    one_entry: bool = False  # a dim of its input has a single entry
    inputs: tuple[Any, ...] = ()  # its factors, as weak references
    zero_factor: bool = False  # one of its factors is 0 everywhere


@dataclass(slots=True, eq=False)
class Site:
    """A line at which values leave the graph, however often it is run."""

    bit: int
    op: str
    place: Place
    layer: str = ""
    block: Place | None = None  # the block or decorator at fault,
    because: str = ""  # and in words
    explicit: bool = False  # asked for by the user: detach, .data, no_grad, .item()
    quiet: bool = False  # of no interest but where it flows into a loss
    number: bool = False  # into a Python or NumPy number
    sample: bool = False  # a draw from a distribution that has rsample
    scored: bool = False  # the draw was given back to log_prob: a score function estimator
    joined: bool = False  # the number came back, in an operation with a tensor
    behind: int = 0  # leaves whose gradient ends here, one bit each
    order: int = 0  # of the last time
    last: "Value | None" = None  # what was cut the last time

    def suspicion(self) -> tuple[int, int]:
        """How likely it is that this number comes back into the loss; 0 if it surely does not."""
        if self.joined:
            return (3, self.order)
        if self.last is not None and self.last.is_loss:
            return (0, self.order)
        return (2 if "numpy" in self.op else 1, self.order)


@dataclass(slots=True, eq=False)
class Cut:
    """One time that values left the graph."""

    site: Site
    explicit: bool
    source: "Value | None" = None  # what was cut
    stopped: bool = False  # met its own graph again in a sum: a stopped gradient
    in_weights: bool = False  # the values were written into a parameter, or made one


Cuts = frozenset[Cut]


@dataclass(slots=True, eq=False)
class Value:
    """What is known of one tensor."""

    made_by: Operation | None = None
    lost: Cuts = frozenset()  # cuts whose value is a term of this one
    every: int = 0  # sites anywhere behind this value, one bit each
    leaves: int = 0  # leaves to which its gradient flows, one bit each
    origin: int = 0  # leaves whose values it is made of, with a gradient or without
    function: Place | None = None  # made inside a custom autograd Function that was applied here
    is_loss: bool = False  # a backward pass began here
    bad: frozenset[Operation] = frozenset()  # where NaN or infinity in it came from
    is_zero: bool = False  # 0 everywhere
    terms: Terms | None = None  # the sum that it is: (value, whether its gradient flows) -> times
    is_slope: bool = False  # 0 in value, soft - soft.detach(): nothing but a slope


@dataclass(slots=True, eq=False)
class Seen:
    """A call that is being looked at, and what was known of its inputs before it was made."""

    call: Call
    inputs: list[Tensor]
    arguments: Any
    required: list[bool]  # whether each input carries a gradient
    values: list[Value]  # what is known of each
    nodes: list[Any]  # the autograd nodes of the inputs
    silence: Any = None
    by_entry: bool = False
    carries: bool = False  # the result carries a gradient

    def flowing(self) -> list[tuple[Tensor, Value]]:
        """The inputs that carry a gradient."""
        pairs = zip(self.inputs, self.values, self.required, strict=True)
        return [(tensor, value) for tensor, value, needs in pairs if needs]
