"""Cuts: the lines at which values leave the graph, and calls that are no operations."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from saetools.gradients.calls import PARAMETER, Call, Role
from saetools.gradients.flow import NO_CUTS, Flow
from saetools.gradients.frames import (
    Block,
    Caller,
    Place,
    called_in,
    find_caller,
    function_around,
)
from saetools.gradients.numbers import Numbers
from saetools.gradients.tensors import is_leaf, needs_gradient, tensors_in
from saetools.gradients.values import Cut, Operation, Seen, Site, Value

if TYPE_CHECKING:
    from saetools.gradients.watch import Watch

# Functions of torch's that are named in place of the operation inside: their user knows no other.
_NAMED = ("distributions", "nn/utils", "autograd/functional", "_functorch", "utils/checkpoint")


class Sites:
    """All cuts."""

    def __init__(self, model: nn.Module | None, flow: Flow) -> None:
        self.all: list[Site] = []
        self.block: Block | None = None  # that switched gradients off
        self.numbers = Numbers()
        self._flow = flow
        self._table: dict[Any, Site] = {}
        modules = model.named_modules() if model is not None else ()
        self._names = {id(module): f"model.{name}" for name, module in modules if name}

    def layer(self, caller: Caller) -> str:
        """The layer of torch.nn that made the call, by its name in the model."""
        if not caller.layers:
            return ""
        inner, outer = caller.layers[0], caller.layers[-1]
        name = self._names.get(id(inner), "")
        if not name and isinstance(outer, nn.Sequential):
            numbers = [n for n, module in enumerate(outer) if module is inner]
            name = f"layer {numbers[0]} of the nn.Sequential" if numbers else ""
        return f"{name} ({type(inner).__name__})" if name else type(inner).__name__

    def get(self, op: str, place: Place, key: Any = None, **facts: Any) -> Site:
        """The site of this operation in this line; `facts` are written into a new one."""
        key = (op, place, key)
        site = self._table.get(key)
        if site is None:
            site = self._table[key] = Site(1 << len(self.all), op, place, **facts)
            self.all.append(site)
        return site

    def cut(self, site: Site, order: int, behind: int, out: Value, explicit: bool = False) -> Cut:
        """Note that values left the graph here, and write it into what is known of them."""
        site.behind |= behind
        site.order = order
        cut = Cut(site, explicit)
        self._flow.cut(cut, out)
        return cut

    def see_cut(self, seen: Seen, out: Value, result: Any, order: int) -> None:
        """The inputs of this operation carry a gradient, and its output does not."""
        caller = find_caller()
        function = None
        if not torch.is_grad_enabled() and not (self.block is not None and self.block.by_user):
            function = function_around()
        site = self._site(seen.call, caller, function)
        if seen.call.role is Role.NUMBER:
            site.behind |= out.origin
            site.order, site.last = order, seen.values[0]
            self.numbers.left(result, Cut(site, explicit=True))
            return
        flowing = seen.flowing()
        from_leaf = seen.call.name in ("detach", "data") and all(is_leaf(t) for t, _ in flowing)
        site.last = flowing[0][1]
        cut = self.cut(site, order, out.leaves, out, site.explicit or from_leaf)
        cut.source = site.last
        out.function = function or out.function

    def _site(self, call: Call, caller: Caller, function: Place | None) -> Site:
        if function is not None:
            is_checkpoint = caller.function == "checkpoint"
            return self.get(
                "torch.utils.checkpoint" if is_checkpoint else "Function.apply", function
            )
        layer = self.layer(caller)
        if call.role is Role.NUMBER:
            return self.get(call.op, caller.place, layer=layer, explicit=True, number=True)
        block = None if torch.is_grad_enabled() else self.block
        if block is not None and block.by_user:
            facts = {"block": block.place, "because": block.words, "explicit": True}
            return self.get(block.op, caller.place, block.place, layer=layer, **facts)
        op = named(call, caller)
        owner = caller.outer.f_locals.get("self") if caller.outer is not None else None
        sample = op.endswith(".sample") and bool(getattr(owner, "has_rsample", False))
        explicit = caller.outer is None and call.name in ("detach", "detach_", "data")
        key = (layer, explicit)
        return self.get(op, caller.place, key, layer=layer, explicit=explicit, sample=sample)

    def cut_quietly(self, op: str, place: Place, order: int, behind: int, out: Value) -> None:
        """A cut of no interest but where its value flows into a loss."""
        site = self.get(op, place, "quiet", quiet=True, explicit=True)
        self.cut(site, order, behind, out, explicit=True)

    def score(self, out: Value) -> None:
        """A draw that is given to log_prob is used by its score function."""
        samples = [site for site in self.all if site.sample and site.bit & out.every]
        if samples and find_caller().function == "log_prob":
            for site in samples:
                site.scored = True


def named(call: Call, caller: Caller) -> str:
    """The operation, or the function of torch's around it that the user called."""
    code = caller.through
    if code is None:
        return call.op
    folder = code.co_filename.replace("\\", "/").rpartition("/torch/")[2]
    is_named = code.co_name in ("state_dict", "load_state_dict", "sample")
    return code.co_qualname if is_named or folder.startswith(_NAMED) else call.op


def behind_of(values: list[Value], tensors: list[Tensor]) -> int:
    """The leaves to which gradients of these tensors flow."""
    behind = 0
    for tensor, value in zip(tensors, values, strict=True):
        behind |= value.leaves if tensor.requires_grad else 0
    return behind


class Special:
    """Sees TorchScript, nn.Parameter(tensor), weight.data = ..., collectives, and .grad."""

    def __init__(self, watch: "Watch") -> None:
        self.watch = watch
        self.orphans: dict[Place, Operation | None] = {}  # .grad was read of what is no leaf

    def see_seam(self, op: str, call: Call, arguments: Any, result: Any) -> None:
        """A call that no mode can see: `op` was given `arguments`, and returned `result`."""
        watch, inputs, outputs = self.watch, tensors_in(arguments), tensors_in(result)
        if not inputs or not outputs:
            return
        place = find_caller().place
        if isinstance(outputs[0], nn.Parameter) and outputs[0].requires_grad:
            watch.leaves.meet(outputs[0]).place = place
        if op in (PARAMETER, "torch.autograd.Variable") and is_leaf(outputs[0]):
            self._copied(op, inputs[0], outputs[0])
            return
        required, values = list(map(needs_gradient, inputs)), list(map(watch.value, inputs))
        nodes = [tensor.grad_fn for tensor in inputs]
        seen = Seen(call, inputs, arguments, required, values, nodes)
        seen.carries = any(map(needs_gradient, outputs))
        out = watch.flow.join(seen)
        watch.operations += 1
        if any(required) and not seen.carries:
            out.lost = NO_CUTS
            self._cut(op, inputs, out)
        for tensor in outputs:
            watch.values[tensor] = out
        if seen.carries and torch.is_grad_enabled():
            watch.passes.watch(Operation(watch.operations, op, "", place), nodes, outputs)

    def _cut(self, op: str, inputs: list[Tensor], out: Value) -> Cut:
        watch = self.watch
        behind = behind_of(list(map(watch.value, inputs)), inputs)
        site = watch.sites.get(op, find_caller().place)
        return watch.sites.cut(site, watch.operations, behind, out)

    def _copied(self, op: str, source: Tensor, leaf: Tensor) -> None:
        """A leaf was given the values of `source`, without their history."""
        value, known = self.watch.value(source), self.watch.value(leaf)
        known.every |= value.every
        known.origin |= value.origin
        known.lost = frozenset(cut for cut in value.lost if not cut.explicit)
        if source.requires_grad and not is_leaf(source):
            behind = known.leaves
            self._cut(op, [source], known).in_weights = True
            known.leaves = behind
        elif known.origin & ~known.leaves and leaf.requires_grad:
            self.watch.leaves.meet(leaf).by_hand = True

    def see_set_data(self, call: Call, tensor: Tensor, source: Any) -> None:
        """tensor.data = source"""
        if isinstance(source, Tensor) and is_leaf(tensor):
            through = find_caller().through
            self._copied(call.op if through is None else through.co_qualname, source, tensor)

    def see_collective(self, call: Call, arguments: Any) -> None:
        """A collective of torch.distributed has filled the tensors that carry no gradient."""
        tensors = tensors_in(arguments)
        needed = [t for t in tensors if t.requires_grad and not is_leaf(t)]
        filled = [t for t in tensors if all(t is not other for other in needed)]
        if needed and filled:
            out = Value(origin=self.watch.value(needed[0]).origin)
            self._cut(call.op, needed, out)
            for tensor in filled:
                self.watch.values[tensor] = out

    def see_grad(self, tensor: Tensor, gradient: Any) -> None:
        """The .grad of a tensor was read."""
        caller = find_caller()
        if caller.outer is not None:
            return
        value = self.watch.value(tensor)
        if gradient is None:
            is_orphan = tensor.requires_grad and not is_leaf(tensor) and not tensor.retains_grad
            if is_orphan and self.watch.passes.calls:
                self.orphans.setdefault(caller.place, value.made_by)
        elif not gradient.requires_grad:
            self._cut_quietly("Tensor.grad", caller.place, value.leaves, gradient, Value())

    def _cut_quietly(
        self, op: str, place: Place, behind: int, gradient: Tensor, value: Value
    ) -> None:
        self.watch.sites.cut_quietly(op, place, self.watch.operations, behind, value)
        self.watch.values[gradient] = value

    def see_derivatives(self, results: list[Tensor], roots: list[Tensor]) -> None:
        """torch.autograd.grad has returned gradients: with a graph of their own, or without."""
        caller, watch, op = find_caller(), self.watch, "torch.autograd.grad"
        if caller.through is not None and called_in("autograd/functional"):
            op = caller.through.co_qualname
        behind = behind_of(list(map(watch.value, roots)), roots)
        for gradient in results:
            watch.operations += 1
            if not gradient.requires_grad:
                self._cut_quietly(op, caller.place, behind, gradient, Value(origin=behind))
                continue
            watch.values[gradient] = Value(leaves=behind, origin=behind)
            operation = Operation(watch.operations, op, "grad", caller.place)
            watch.passes.watch(operation, [], [gradient])
