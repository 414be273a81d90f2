"""What to say of an operation at which a gradient was lost: the reason, and what to do instead."""

SURROGATE = (
    "use a stand-in with a slope, such as torch.sigmoid(x / temperature), or keep the hard value "
    "and borrow the slope: hard + (soft - soft.detach())"
)
KEEP_TENSORS = "stay with tensors: use the tensor itself, torch.stack or torch.cat"

_CUTS = {
    "gt ge lt le eq ne greater greater_equal less less_equal not_equal isclose logical_not": (
        "a comparison gives True or False, which have no slope",
        SURROGATE,
    ),
    "argmax argmin argsort searchsorted bucketize nonzero max min sort topk median mode kthvalue": (
        "an index has no slope",
        "use softmax weights in place of the index, or the value in place of its position",
    ),
    "long int short bool char byte to type": (
        "integers and booleans carry no gradient, and turning them back into floats does not "
        "restore it",
        "stay with a floating dtype; " + SURROGATE,
    ),
    "detach detach_ data": (
        "it returns the values without their history",
        "leave it out where this value is to be trained on",
    ),
    "item tolist numpy asarray float int __complex__": (
        "a Python or NumPy number carries no gradient",
        KEEP_TENSORS,
    ),
    "tensor as_tensor new_tensor": (
        "a new tensor is made from the values alone",
        KEEP_TENSORS,
    ),
    "grad": (
        "a gradient carries no gradient of its own, unless it is asked to",
        "pass create_graph=True to torch.autograd.grad",
    ),
    "no_grad": (
        "gradients are not recorded here (torch.no_grad or inference mode)",
        "move what is to be trained on out of the block",
    ),
    "bernoulli multinomial poisson randint_like": (
        "a random draw has no slope",
        "use a reparametrised sample (rsample), or a relaxed distribution",
    ),
}
_ZEROS = {
    "clamp clamp_ clip clip_ clamp_min clamp_max hardtanh hardsigmoid relu6": (
        "outside its range the slope is 0",
        "squeeze in place of cutting off: eps + (1 - 2 * eps) * x",
    ),
    "round floor ceil trunc sign sgn heaviside round_ floor_ ceil_ sign_ floor_divide frac_": (
        "it is flat: its slope is 0 everywhere",
        SURROGATE,
    ),
    "relu relu_ threshold hardshrink softshrink": (
        "the unit is below 0 on every row, where a ReLU's slope is 0",
        "check the initialisation; put what must see the unit in front of the ReLU",
    ),
    "sigmoid sigmoid_ tanh tanh_ softmax log_softmax hardswish": (
        "it is saturated: its slope is rounded to 0",
        "scale its input down (a higher temperature), or check the initialisation",
    ),
    "__setitem__ index_put_ fill_ zero_ copy_ masked_fill_ index_fill_ index_copy_ scatter_": (
        "entries that are overwritten send no gradient back",
        "compute a new tensor in place of writing into this one",
    ),
    "mul __rmul__ mul_ where masked_fill multiply dropout": (
        "everything is masked out, or multiplied by 0",
        "check the mask or the factor",
    ),
}
_NOT_FINITE = {
    "log log2 log10 log1p div __rtruediv__ true_divide reciprocal xlogy logit": (
        "its slope is infinite at 0",
        "keep its input away from 0 (where() behind it is too late: use it in front, on the input)",
    ),
    "sqrt rsqrt pow __rpow__ norm linalg_norm vector_norm linalg_vector_norm cdist std": (
        "the slope of a root or a norm is infinite at 0",
        "add a small constant inside the root",
    ),
    "mul __rmul__ where prod": (
        "0 times infinity is NaN",
        "keep the infinite value out in front: a mask behind it does not help",
    ),
}


_OTHERS = {
    "cut": ("its result does not carry a gradient", SURROGATE),
    "zeroed": (
        "its slope is 0 for these inputs",
        "check what goes in, and what the slope is there",
    ),
    "not finite": ("its slope is not finite for these inputs", "check the range of its inputs"),
}
_TABLES = {"cut": _CUTS, "zeroed": _ZEROS, "not finite": _NOT_FINITE}

NOT_FINITE_VALUE = (
    "NaN or infinity first appears in its value",
    "check the range of its inputs",
)
STRAIGHT_THROUGH = (
    "this is a straight-through estimator: the value of a hard function, the slope of a soft one",
    "nothing to do",
)
DETACHED = (
    "no loss that was backpropagated in the block has a path to this parameter",
    "find the cut in front of it, or give it requires_grad=False if it is to stay as it is",
)


def on(kind: str, op: str) -> tuple[str, str]:
    """Reason and advice for a fault of this kind at this operation, by its public name."""
    name = op.rpartition(".")[-1].removesuffix("()")
    entries = (entry for names, entry in _TABLES[kind].items() if name in names.split())
    return next(entries, _OTHERS[kind])


def can_be_flat(name: str) -> bool:
    """Whether an operation, by its bare name, is one of those whose slope is 0 somewhere."""
    return any(name in names.split() for names in _ZEROS)


def is_a_mask(name: str) -> bool:
    """Whether it is flat only where another of its inputs says so."""
    return on("zeroed", name) == on("zeroed", "where")


def public_name(name: str) -> str:
    """The public name of an operation, from the name that torch resolves."""
    special = {"__float__": "float()", "__int__": "int()", "__array__": "numpy.asarray()"}
    special |= {f"__{op}__": f"Tensor.{op}" for op in ("eq", "ne", "gt", "ge", "lt", "le")}
    name = name.removesuffix(".__get__").replace("torch.Tensor.", "Tensor.")
    return special.get(name.rpartition(".")[-1], name)
