"""What to say of an operation at which a gradient was cut: the reason, and what to do instead.

Names are for the explanation alone; what is found is found without them.
"""

from saetools.gradients.values import Operation, Site

Words = tuple[str, str]  # the reason, and the advice

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
        "it left the graph as a Python or NumPy number here, which carries no gradient",
        KEEP_TENSORS,
    ),
    "tensor as_tensor new_tensor": (
        "a new tensor is made from the values alone",
        KEEP_TENSORS,
    ),
    "grad": (
        "a gradient carries no gradient of its own, unless it is asked to",
        "pass create_graph=True to the call that computes it",
    ),
    "jacobian hessian vjp jvp hvp vhp": (
        "the derivative carries no gradient of its own, unless it is asked to",
        "pass create_graph=True",
    ),
    "bernoulli multinomial poisson randint_like": (
        "a random draw has no slope",
        "use a reparametrised sample (rsample), or a relaxed distribution",
    ),
    "sample": (
        "sample() draws under no_grad: no gradient flows through the draw",
        "use rsample() where the distribution has it, or the score function: "
        "-(log_prob(sample) * reward.detach())",
    ),
    "state_dict": (
        "the tensors of a state_dict are detached",
        "use dict(model.named_parameters()), or state_dict(keep_vars=True)",
    ),
    "load_state_dict copy_ vector_to_parameters": (
        "values are copied into a parameter without their history",
        "call the model with torch.func.functional_call(model, computed_weights, inputs)",
    ),
    "Parameter Variable": (
        "a new leaf is made of the values: what computed them is left behind",
        "use the tensor itself; for weights that are computed, torch.func.functional_call",
    ),
    "histc bincount histogram": (
        "counts have no slope",
        "use a soft histogram: a sum of smooth bumps, one a bin",
    ),
    "checkpoint": (
        "with use_reentrant=True, no input of the checkpoint requires a gradient, and then its "
        "parameters get none",
        "pass use_reentrant=False",
    ),
    "apply": (
        "a custom autograd Function gives a result without a gradient",
        "pass what it is to train as arguments of apply, and do not mark the result "
        "non-differentiable",
    ),
    "all_gather all_gather_into_tensor all_gather_single all_reduce broadcast gather scatter": (
        "a collective of torch.distributed copies values without their history",
        "put the local tensor back in its place (gathered[rank] = tensor), or use "
        "torch.distributed.nn.functional",
    ),
    "function module": (
        "an operation in the TorchScript code cuts the gradient",
        "trace the code without torch.jit.script (PYTORCH_JIT=0) to see the line",
    ),
}
_NO_GRAD = "gradients are not recorded here"
OTHER_CUT: Words = ("its result does not carry a gradient", SURROGATE)

MASK: Words = (
    "used as a mask, a factor or an index, while its parameters are reached another way",
    "nothing to do if that is what it is for",
)
STOPPED: Words = ("a stopped gradient", "nothing to do if it is there on purpose")
STRAIGHT_THROUGH: Words = (
    "this is a straight-through estimator: the value of a hard function, the slope of a soft one",
    "nothing to do",
)
NUMBER: Words = (
    "left the graph as a Python or NumPy number here; if it comes back into the loss, this is "
    "your line",
    KEEP_TENSORS,
)
DETACHED: Words = (
    "it is used in the block, and no loss that was backpropagated has a path to it",
    "find the cut in front of it, or give it requires_grad=False if it is to stay as it is",
)
NOTHING_REQUIRES: Words = (
    "nothing that this loss is made of requires a gradient",
    "set requires_grad=True on what is to be trained",
)

CLEARED: Words = (
    "gradients are cleared here, after the backward pass and before the step that was to use them",
    "call zero_grad() in front of backward(), or behind step()",
)
NOT_OPTIMIZED: Words = (
    "it gets a gradient, and no optimizer that was given or seen holds it",
    "build the optimizer from the parameters of this model, after all its layers are made",
)


def no_leaf(made_by: Operation | None) -> Words:
    """Words for .grad of a tensor that is the result of an operation."""
    where = f" at {made_by.op}, line {made_by.place.lineno}" if made_by is not None else ""
    return (
        f"this tensor is no leaf: it was computed{where}, and .grad of such a tensor stays None",
        "read the .grad of the leaf it was computed from, or call retain_grad() on it first",
    )


def frozen(count: int) -> Words:
    """Words for a model of which no parameter requires a gradient."""
    return (
        f"none of the {count} parameters of the model requires a gradient: all are frozen",
        "set requires_grad=True on those that are to be trained",
    )


def of_cut(site: Site, parameters: list[str]) -> Words:
    """Reason and advice for a cut, and which parameters lie behind it."""
    name = site.op.rpartition(".")[-1].rpartition(" ")[-1].removesuffix("()")
    words = next((words for names, words in _CUTS.items() if name in names.split()), OTHER_CUT)
    if site.because:
        words = (
            f"{_NO_GRAD}: {site.because}",
            "move what is to be trained on out of the block"
            if "decorator" not in site.because
            else "take the decorator away from what is to be trained",
        )
    if parameters:
        listed = ", ".join(parameters[:3]) + ", ..." * (len(parameters) > 3)
        words = (f"{words[0]}; no loss reaches {listed} behind it", words[1])
    return words


def public_name(name: str) -> str:
    """The public name of an operation, from the name that torch resolves.

    >>> public_name("torch.Tensor.__gt__"), public_name("torch.Tensor.data.__get__")
    ('Tensor.gt', 'Tensor.data')
    """
    special = {"__float__": "float()", "__int__": "int()", "__array__": "numpy.asarray()"}
    special |= {f"__{op}__": f"Tensor.{op}" for op in ("eq", "ne", "gt", "ge", "lt", "le")}
    name = name.removesuffix(".__get__").replace("torch.Tensor.", "Tensor.")
    if name.startswith("aten."):
        name = "torch.ops." + name
    return special.get(name.rpartition(".")[-1], name)
