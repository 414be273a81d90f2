"""What to say of a place where a gradient was lost: the reason, and what to do instead.

Names are for the explanation alone; what is found is found without them.
"""

from saetools.gradients.units import Silence
from saetools.gradients.values import Operation, Site

Words = tuple[str, str]  # the reason, and the advice


def _table(text: str) -> dict[str, Words]:
    """Three lines an entry: the names of operations, the reason, the advice."""
    lines = [line.strip() for line in text.strip().split("\n")]
    return dict(zip(lines[::3], zip(lines[1::3], lines[2::3], strict=True), strict=True))


SURROGATE = (
    "use a stand-in with a slope, such as torch.sigmoid(x / temperature), or keep the hard value "
    "and borrow the slope: hard + (soft - soft.detach())"
)
_CUTS = _table(f"""
    gt ge lt le eq ne greater less isclose
    a comparison gives True or False, which have no slope
    {SURROGATE}
    argmax argmin argsort searchsorted bucketize nonzero max min sort topk median mode
    an index has no slope
    use softmax weights in place of the index, or the value in place of its position
    long int short bool byte to type type_as
    integers and booleans carry no gradient, and turning them back into floats restores none
    stay with a floating dtype; {SURROGATE}
    detach detach_ data
    it returns the values without their history
    leave it out where this value is to be trained on
    item tolist numpy asarray float __complex__
    it left the graph as a Python or NumPy number here, which carries no gradient
    stay with tensors: use the tensor itself, torch.stack or torch.cat
    tensor as_tensor new_tensor
    a new tensor is made from the values alone
    stay with tensors: use the tensor itself, torch.stack or torch.cat
    grad jacobian hessian vjp jvp hvp vhp
    a derivative carries no gradient of its own, unless it is asked to
    pass create_graph=True to the call that computes it
    bernoulli multinomial poisson sample
    no gradient flows through a draw
    use rsample(), a relaxed draw, or the score function: -(log_prob(sample) * reward.detach())
    load_state_dict copy_ vector_to_parameters Parameter Variable
    a parameter takes the values alone: what computed them is left behind
    call the model with torch.func.functional_call(model, computed_weights, inputs)
    checkpoint
    with use_reentrant=True a checkpoint gives no gradient unless an input requires one
    pass use_reentrant=False
    apply
    a custom autograd Function gives a result without a gradient
    pass what it is to train as arguments of apply; do not mark the result non-differentiable
    all_gather all_gather_into_tensor all_reduce broadcast
    a collective of torch.distributed copies values without their history
    put the local tensor back (gathered[rank] = tensor), or use torch.distributed.nn
""")
_BOUND = (
    "is the bound meant for this value? A smooth bound keeps a slope: softplus for one side, "
    "a scaled tanh or sigmoid for two"
)
_ZEROS = _table(f"""
    cancels
    what comes back through it cancels with another path to the same tensor, to exactly 0
    detach what is there for its value: hard + (soft - soft.detach()), residual - quantised.detach()
    none
    the backward of this custom autograd Function returns None for what needs a gradient
    return a gradient, one for each argument of forward
    rounded
    rounded division is flat: its slope is 0 everywhere
    {SURROGATE}
    single
    a softmax over a single entry is 1 whatever goes in
    give it two entries or more, or use a sigmoid for one; and check its dim
    half
    the gradient is too small for half precision and is rounded to 0
    scale the loss up (torch.amp.GradScaler), or use bfloat16 or float32 here
    second
    the second derivative is 0 here, as that of a ReLU is everywhere
    use a smooth activation (tanh, SiLU, softplus) where derivatives are trained on
    round floor ceil trunc sign sgn heaviside floor_divide frac
    it is flat: its slope is 0 everywhere
    keep its value and borrow a slope: x + (x.round() - x).detach(), your operation for round
    relu threshold hardshrink softshrink
    all of its inputs are below 0, where its slope is 0
    check the initialisation and the learning rate; on an output, leave it out
    clamp clip clamp_min clamp_max hardtanh hardsigmoid relu6 hardswish
    all of its inputs are outside its range, where its slope is 0
    {_BOUND}
    maximum minimum max min where fmax fmin
    the other argument is chosen everywhere, so this one gets no gradient
    check which of the two is meant to win; torch.logaddexp and softplus choose softly
    sigmoid tanh softmax log_softmax cross_entropy softplus
    it is saturated: its slope is rounded to 0
    scale its input down (a higher temperature), or check the initialisation
    __setitem__ index_put fill zero copy masked_fill index_fill index_copy scatter
    entries that are overwritten send no gradient back
    compute a new tensor in place of writing into this one
    mul __rmul__ multiply dropout
    everything is masked out, or multiplied by 0
    check the mask or the factor
    matmul __matmul__ mm bmm linear einsum
    both factors are 0, and the slope of each is the other: neither can ever move
    start one of the two from random numbers (in LoRA: A random, B = 0)
    layer_norm group_norm batch_norm instance_norm rms_norm
    it normalises over a single entry, which comes out the same whatever goes in
    give it more entries to normalise over, or leave it out
""")
_NOT_FINITE = _table("""
    log log2 log10 log1p div __rtruediv__ true_divide reciprocal xlogy logit
    its slope is infinite at 0
    keep its input away from 0 (where() behind it is too late: use it in front, on the input)
    sqrt rsqrt pow __pow__ norm linalg_norm vector_norm linalg_vector_norm cdist
    the slope of a root or a norm is infinite at 0
    add a small constant inside the root
    std var
    the slope of a spread of 0 is infinite, and the spread of one value is NaN
    use more than one value (or correction=0), and sqrt(var + eps) in place of std
    acos asin acosh arccos arcsin atanh
    its slope is infinite at the ends of its range
    keep its input a little inside, or use atan2(sine, cosine)
    softmax log_softmax multi_head_attention_forward scaled_dot_product_attention
    in a row everything is masked out: a softmax over nothing but -inf is NaN
    leave at least one entry of each row unmasked, or leave these rows out in front of it
    mul __rmul__ where prod
    0 times infinity is NaN
    keep the infinite value out in front: a mask behind it does not help
    exp expm1 sinh cosh square
    it overflows
    keep its input small, or work with logarithms (logsumexp)
""")
_MEANT = "nothing to do if that is what it is for"
MASK = ("used as a mask, a factor or an index", _MEANT)
STOPPED = ("a stopped gradient", _MEANT)
FLOOR = ("a loss, or a term of it, is at its floor here: nothing is left to gain", _MEANT)
SILENT = ("units are silent in this batch, which may be chance", "look again over more rows")
_SAID = _table("""
    harmless
    NaN or infinity arises here, and no parameter hears of it: something behind it selects
    select in front of it, on its input, to be safe
    straight-through
    this is a straight-through estimator: the value of a hard function, the slope of a soft one
    nothing to do
    number
    left the graph as a Python number here; if it comes back into the loss, this is your line
    stay with tensors: use the tensor itself, torch.stack or torch.cat
    detached
    it is used in the block, and no loss that was backpropagated has a path to it
    find the cut in front of it, or give it requires_grad=False if it is to stay as it is
    nothing
    nothing that this loss is made of requires a gradient
    set requires_grad=True on what is to be trained
    cleared
    gradients are cleared here, after the backward pass and before the step that was to use them
    call zero_grad() in front of backward(), or behind step()
    not optimized
    it gets a gradient, and no optimizer that was given or seen holds it
    build the optimizer from the parameters of this model, after all its layers are made
""")
HARMLESS, STRAIGHT_THROUGH, NUMBER, DETACHED, *_rest = _SAID.values()
NOTHING_REQUIRES, CLEARED, NOT_OPTIMIZED = _rest


def no_leaf(made_by: Operation | None) -> Words:
    """Words for .grad of a tensor that is the result of an operation."""
    where = f" at {made_by.op}, line {made_by.place.lineno}" if made_by is not None else ""
    return (
        f"this tensor is no leaf: it was computed{where}, and .grad of such a tensor stays None",
        "read the .grad of the leaf it was computed from, or call retain_grad() on it first",
    )


def frozen(count: int) -> Words:
    """Words for a model of which no parameter requires a gradient."""
    reason = f"none of the {count} parameters of the model requires a gradient: all are frozen"
    return (reason, NOTHING_REQUIRES[1])


def listed(names: list[str]) -> str:
    """A few of them."""
    return ", ".join(names[:3]) + ", ..." * (len(names) > 3)


def _look_up(table: dict[str, Words], op: str, other: Words) -> Words:
    bare = op.rpartition(".")[-1].rpartition(" ")[-1].removesuffix("()")
    names = {bare, bare if bare.endswith("__") else bare.rstrip("_")}
    return next((words for key, words in table.items() if names & set(key.split())), other)


def of_cut(site: Site, parameters: list[str]) -> Words:
    """Reason and advice for a cut, and which parameters lie behind it."""
    reason, advice = _look_up(_CUTS, site.op, ("its result carries no gradient", SURROGATE))
    if site.because:
        reason = f"gradients are not recorded here: {site.because}"
        advice = "move what is to be trained on out of it"
    behind = f"; no loss reaches {listed(parameters)} behind it" if parameters else ""
    return reason + behind, advice


def of_zeros(why: str, operation: Operation, node: str, parameters: list[str]) -> Words:
    """Reason and advice for an operation at which a gradient turns into zeros."""
    if why in ("units", "entries") and operation.name != "__setitem__":
        return _of_silence(operation.silence, operation.name)
    op = operation.op
    if why in ("cancels", "none"):
        op = why
    elif any(number in ("floor", "trunc") for number in operation.numbers):
        op = "rounded"
    elif "Softmax" in node and operation.one_entry:
        op = "single"
    elif operation.half:
        op = "half"
    elif "BackwardBackward" in node or operation.name == "grad":
        op = "second"
    other = ("its slope is 0 for these inputs", "check what goes in, and what the slope is there")
    reason, advice = _look_up(_ZEROS, op, other)
    behind = f"; {listed(parameters)} behind it: nothing but zeros" if parameters else ""
    return reason + behind, advice


def _of_silence(silence: Silence | None, name: str) -> Words:
    if silence is None:
        reason = "entries of it are in its flat part, and get no gradient"
        return reason, f"{_BOUND}; low + (high - low) * x for an x between 0 and 1 squeezes"
    where = f"{silence.side} {silence.bound:g}"
    reason = f"its silent units are {where} on every row ({silence.spreads:.2g} spreads {where})"
    if "relu" not in name or silence.side != "below":
        return reason + ", where the slope is 0", _BOUND
    return (
        reason + ", where a ReLU's slope is 0",
        "check the initialisation; on an output that is to be positive use softplus, and put what "
        "must see the unit in front of the ReLU",
    )


def of_not_finite(operation: Operation, in_value: bool) -> Words:
    """Reason and advice for the first operation that is not finite."""
    if operation.why_bad:
        reason = f"{operation.why_bad}: this is the first operation that meets it"
        return reason, "clean it in front: a mask on the loss is too late, as 0 times NaN is NaN"
    other = ("its slope is not finite for these inputs", "check the range of its inputs")
    reason, advice = _look_up(_NOT_FINITE, operation.op, other)
    if not in_value:
        return reason, advice
    first = "NaN or infinity first appears in its value"
    return first if (reason, advice) == other else f"{first} ({reason})", advice
