"""The lines at which values leave the graph."""

from typing import Any

from torch import nn

from saetools.gradients.blocks import Block
from saetools.gradients.frames import Caller, Place
from saetools.gradients.roles import Call, Role
from saetools.gradients.values import Site

_DETACHES = ("detach", "detach_", "data")
# Functions of torch's that are named in place of the operation inside: their user knows no other.
_NAMED = ("distributions", "nn/utils", "autograd/functional", "_functorch", "utils/checkpoint")
_NAMED_METHODS = ("state_dict", "load_state_dict", "sample")


class Sites:
    """Each line once, however often it is run."""

    def __init__(self, model: nn.Module | None) -> None:
        self.all: list[Site] = []
        self.samples: list[Site] = []  # those of them that draw from a distribution
        self._table: dict[Any, Site] = {}
        modules = model.named_modules() if model is not None else ()
        self._names = {id(module): f"model.{name}" for name, module in modules if name}

    def layer(self, caller: Caller) -> str:
        """The layer of torch.nn that made the call, by its name in the model."""
        if caller.layer is None:
            return ""
        kind = type(caller.layer).__name__
        name = self._names.get(id(caller.layer), "")
        if not name and isinstance(caller.container, nn.Sequential):
            number = [id(module) for module in caller.container].index(id(caller.layer))
            name = f"layer {number} of the nn.Sequential"
        return f"{name} ({kind})" if name else kind

    def get(self, key: Any, op: str, place: Place, layer: str = "", **facts: Any) -> Site:
        """The site of this key; `facts` are written into a new one."""
        site = self._table.get(key)
        if site is None:
            site = Site(1 << len(self.all), op, place, layer, **facts)
            self._table[key] = site
            self.all.append(site)
            if site.sample:
                self.samples.append(site)
        return site

    def of_cut(
        self, call: Call, caller: Caller, block: Block | None, function: Place | None
    ) -> Site:
        """The site of an operation whose inputs require a gradient and whose output does not."""
        if function is not None:
            through = caller.through.co_name if caller.through is not None else "apply"
            op = "torch.utils.checkpoint" if through == "checkpoint" else "Function.apply"
            return self.get((op, function), op, function)
        layer = self.layer(caller)
        if call.role is Role.NUMBER:
            key: Any = (call.op, caller.place)
            return self.get(key, call.op, caller.place, layer, explicit=True, number=True)
        if block is not None and block.by_user:
            key = (block.op, block.place, caller.place)
            site = self.get(key, block.op, caller.place, layer, explicit=True)
            site.block, site.because = block.place, block.words
            return site
        op = _named(call, caller)
        is_sample = op.endswith(".sample") and _has_rsample(caller)
        explicit = caller.direct and call.name in _DETACHES
        key = (op, caller.place, layer, explicit)
        return self.get(key, op, caller.place, layer, explicit=explicit, sample=is_sample)

    def quiet(self, op: str, place: Place) -> Site:
        """A site of no interest but where it flows into a loss."""
        return self.get((op, place, "quiet"), op, place, quiet=True, explicit=True)

    def among(self, bits: int) -> list[Site]:
        """The sites that these bits stand for."""
        return [site for site in self.all if site.bit & bits]


def _named(call: Call, caller: Caller) -> str:
    """The operation, or the function of torch's around it that the user called."""
    code = caller.through
    if code is None:
        return call.op
    folder = code.co_filename.replace("\\\\", "/").rpartition("/torch/")[2]
    if folder.startswith(_NAMED) or code.co_name in _NAMED_METHODS:
        return code.co_qualname
    return call.op


def _has_rsample(caller: Caller) -> bool:
    """Whether the distribution that was drawn from has a draw with a gradient as well."""
    owner = caller.outer.f_locals.get("self") if caller.outer is not None else None
    return bool(getattr(owner, "has_rsample", False))
