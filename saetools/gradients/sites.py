"""The lines at which values leave the graph, each once, however often it is run."""

from typing import Any

import torch
from torch import Tensor, nn

from saetools.gradients.calls import Call, Role
from saetools.gradients.flow import Flow
from saetools.gradients.frames import Block, Caller, Place, find_caller, function_around
from saetools.gradients.numbers import Numbers
from saetools.gradients.tensors import is_leaf
from saetools.gradients.values import Cut, Seen, Site, Value

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
