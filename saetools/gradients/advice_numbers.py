"""What to say where a gradient turned into zeros, or into something that is not finite."""

from saetools.gradients.advice import SURROGATE, Words
from saetools.gradients.units import Silence
from saetools.gradients.values import Operation

_ZEROS = {
    "round floor ceil trunc sign sgn heaviside round_ floor_ ceil_ sign_ floor_divide frac_ fix": (
        "it is flat: its slope is 0 everywhere",
        "keep its value and borrow a slope: x + (x.round() - x).detach(), with your operation in "
        "place of round",
    ),
    "bernoulli": (
        "a random draw has no slope",
        "use a relaxed draw (RelaxedBernoulli, gumbel_softmax), or a straight-through one",
    ),
    "grid_sample": (
        "with mode='nearest' the output does not change with the grid",
        "use mode='bilinear'",
    ),
    "relu relu_ threshold hardshrink softshrink": (
        "all of its inputs are below 0, where its slope is 0",
        "check the initialisation, the biases and the learning rate; on an output, leave it out",
    ),
    "clamp clamp_ clip clip_ clamp_min clamp_max hardtanh hardsigmoid relu6 hardswish": (
        "all of its inputs are outside its range, where its slope is 0",
        "is the bound meant for this value? A smooth bound keeps a slope: softplus for one side, "
        "a scaled tanh or sigmoid for two",
    ),
    "maximum minimum max min where fmax fmin": (
        "the other argument is chosen everywhere, so this one gets no gradient",
        "check which of the two is meant to win; torch.logaddexp and softplus choose softly",
    ),
    "sigmoid sigmoid_ tanh tanh_ softmax log_softmax cross_entropy softplus": (
        "it is saturated: its slope is rounded to 0",
        "scale its input down (a higher temperature), or check the initialisation",
    ),
    "__setitem__ index_put_ fill_ zero_ copy_ masked_fill_ index_fill_ index_copy_ scatter_": (
        "entries that are overwritten send no gradient back",
        "compute a new tensor in place of writing into this one",
    ),
    "mul __rmul__ mul_ masked_fill multiply dropout": (
        "everything is masked out, or multiplied by 0",
        "check the mask or the factor",
    ),
    "matmul __matmul__ mm bmm linear einsum __rmatmul__": (
        "both factors are 0, and the slope of each is the other: neither can ever move",
        "start one of the two from random numbers (in LoRA: A random, B = 0)",
    ),
}
_NOT_FINITE = {
    "log log2 log10 log1p div __rtruediv__ true_divide reciprocal xlogy logit": (
        "its slope is infinite at 0",
        "keep its input away from 0 (where() behind it is too late: use it in front, on the input)",
    ),
    "sqrt rsqrt pow __rpow__ __pow__ norm linalg_norm vector_norm linalg_vector_norm cdist": (
        "the slope of a root or a norm is infinite at 0",
        "add a small constant inside the root",
    ),
    "std var": (
        "the slope of a spread of 0 is infinite, and the spread of one value is NaN",
        "use more than one value (or correction=0), and sqrt(var + eps) in place of std",
    ),
    "acos asin acosh arccos arcsin atanh": (
        "its slope is infinite at the ends of its range",
        "keep its input a little inside, or use atan2(sine, cosine)",
    ),
    "atan2 arctan2": (
        "it has no slope where both arguments are 0",
        "add a small constant to one of them, in front",
    ),
    "softmax log_softmax multi_head_attention_forward scaled_dot_product_attention": (
        "in a row everything is masked out: a softmax over nothing but -inf is NaN",
        "leave at least one entry of each row unmasked, or leave these rows out in front of it",
    ),
    "mul __rmul__ where prod": (
        "0 times infinity is NaN",
        "keep the infinite value out in front: a mask behind it does not help",
    ),
    "exp expm1 sinh cosh pow square": (
        "it overflows",
        "keep its input small, or work with logarithms (logsumexp)",
    ),
    "mean": ("the mean of nothing is NaN", "leave it out where nothing was selected"),
}
FLOOR: Words = (
    "a loss, or a term of it, is at its floor here: nothing is left to gain",
    "nothing to do if that is what it is for",
)
SILENT: Words = (
    "units are silent in this batch, which may be chance",
    "look again over more rows, or over several steps",
)


def _look_up(table: dict[str, Words], op: str, other: Words) -> Words:
    name = op.rpartition(".")[-1].removesuffix("()")
    return next((words for names, words in table.items() if name in names.split()), other)


def of_zeros(why: str, operation: Operation, node: str, parameters: list[str]) -> Words:
    """Reason and advice for an operation at which a gradient turns into zeros."""
    words = _of_zeros(why, operation, node)
    if parameters:
        listed = ", ".join(parameters[:3]) + ", ..." * (len(parameters) > 3)
        words = (f"{words[0]}; {listed} behind it: nothing but zeros", words[1])
    return words


def _of_zeros(why: str, operation: Operation, node: str) -> Words:
    if why == "cancels":
        return (
            "what comes back through it cancels with another path to the same tensor, to exactly 0",
            "detach the one that is there for its value: hard + (soft - soft.detach()); in a "
            "residual quantiser, residual - quantised.detach()",
        )
    if why == "none":
        return (
            "the backward of this custom autograd Function returns None for what requires a "
            "gradient",
            "return a gradient, one for each argument of forward",
        )
    if why in ("units", "entries"):
        return _of_silence(operation.silence, operation, why)
    if any(number in ("floor", "trunc") for number in operation.numbers):
        return ("rounded division is flat: its slope is 0 everywhere", SURROGATE)
    if "Softmax" in node and operation.one_entry:
        return (
            "a softmax over a single entry is 1 whatever goes in",
            "give it two entries or more, or use a sigmoid for one; and check its dim",
        )
    if operation.half:
        return (
            "the gradient is too small for half precision and is rounded to 0",
            "scale the loss up (torch.amp.GradScaler), or use bfloat16 or float32 here",
        )
    if "BackwardBackward" in node or operation.name == "grad":
        return (
            "the second derivative is 0 here, as that of a ReLU is everywhere",
            "use a smooth activation (tanh, SiLU, softplus) where derivatives are trained on",
        )
    return _look_up(
        _ZEROS,
        operation.op,
        ("its slope is 0 for these inputs", "check what goes in, and what the slope is there"),
    )


def _of_silence(silence: Silence | None, operation: Operation, why: str) -> Words:
    what = "units" if why == "units" else "entries"
    if silence is None:
        if operation.name == "__setitem__":
            return _look_up(_ZEROS, operation.op, FLOOR)
        return (
            f"{what} of it are in its flat part, and get no gradient",
            "is the bound meant for this value? Squeezing into the range keeps a slope: "
            "low + (high - low) * x for an x between 0 and 1",
        )
    distance = f"{silence.spreads:.2g} spreads {silence.side} {silence.bound:g}"
    if silence.side == "below" and silence.bound == 0 and "relu" in operation.name:
        return (
            f"its silent units are below 0 on every row ({distance}), where a ReLU's slope is 0",
            "check the initialisation; on an output that is to be positive use softplus, and put "
            "what must see the unit in front of the ReLU",
        )
    return (
        f"its silent units are {silence.side} {silence.bound:g} on every row ({distance}), where "
        "the slope is 0",
        "is the bound meant for this value? A smooth bound keeps a slope (softplus for one side, "
        "a scaled tanh for two), and so does a penalty on leaving the range",
    )


def of_not_finite(operation: Operation, in_value: bool) -> Words:
    """Reason and advice for the first operation that is not finite."""
    if operation.why_bad:
        return (
            f"{operation.why_bad}: this is the first operation that meets it",
            "clean it in front (torch.isfinite tells where); a mask on the loss is too late, "
            "because 0 times NaN is NaN",
        )
    other = ("its slope is not finite for these inputs", "check the range of its inputs")
    reason, advice = _look_up(_NOT_FINITE, operation.op, other)
    if not in_value:
        return reason, advice
    first = "NaN or infinity first appears in its value"
    if (reason, advice) == other:
        return first, "check the range of its inputs; over several steps, the learning rate"
    return f"{first} ({reason})", advice
