"""The tensors that a gradient is to reach, and the optimizers that hold them."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from saetools.gradients.frames import Place, find_caller
from saetools.gradients.tensors import State, state_of

_LIKE = 0.3  # relative distance; a teacher that follows its student is nearer


class Leaf:
    """One leaf, and what came to it."""

    def __init__(self, tensor: Tensor, bit: int, name: str) -> None:
        self.reference = weakref.ref(tensor)
        self.bit = bit
        self.name = name
        self.is_parameter = isinstance(tensor, nn.Parameter)
        is_lazy = isinstance(tensor, UninitializedParameter)
        self.words = name or f"a parameter of shape {() if is_lazy else tuple(tensor.shape)}"
        self.trained = False  # it is a parameter of the traced model, or of an optimizer
        self.used = False  # an operation took it while gradients were recorded
        self.reached = False  # a graph led from a loss to it
        self.fed = False  # something other than zeros arrived
        self.hungry = False  # nothing but zeros arrived, at least once
        self.place: Place | None = None  # where it was made in the block, or first used
        self.stepped = False  # an optimizer that was given, or made a step, holds it
        self.by_hand = False  # the code writes its values itself, as into the copy of a teacher

    def requires_gradient(self) -> bool:
        """Whether it is alive, and still does."""
        tensor = self.reference()
        return tensor is not None and tensor.requires_grad

    def is_starved(self) -> bool:
        """Whether a loss reaches it, nothing but zeros comes, and that is a fault."""
        return self.hungry and not (self.fed or self.by_hand) and self.requires_gradient()

    def is_wanted(self) -> bool:
        """Whether it ought to be reached: it is trained, and still requires a gradient."""
        return self.trained and not self.by_hand and self.requires_gradient()

    def is_like(self, other: "Leaf") -> bool:
        """Whether its values are nearly those of another one: a teacher is a copy."""
        a, b = self.reference(), other.reference()
        if a is None or b is None or a.shape != b.shape or not a.is_floating_point():
            return False
        one, two = a.detach().flatten().double(), b.detach().flatten().double()
        return float((one - two).norm()) <= _LIKE * float(one.norm())


class Leaves:
    """All leaves that were met, by identity; each has a bit of its own."""

    def __init__(self, model: nn.Module | None, optimizers: Iterable[Optimizer]) -> None:
        self._table: dict[int, Leaf] = {}
        named = model.named_parameters() if model is not None else ()
        self.of_model = [self.meet(parameter, name) for name, parameter in named]
        for leaf in self.of_model:
            leaf.trained = True
        for optimizer in optimizers:
            self.meet_optimizer(optimizer)

    def meet(self, tensor: Tensor, name: str = "") -> Leaf:
        """The leaf that this tensor is."""
        leaf = self._table.get(id(tensor))
        if leaf is None or leaf.reference() is not tensor:
            leaf = self._table[id(tensor)] = Leaf(tensor, 1 << len(self._table), name)
        return leaf

    def meet_optimizer(self, optimizer: Optimizer) -> None:
        """Its parameters are to be trained as well."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                leaf = self.meet(parameter)
                leaf.trained = leaf.stepped = True

    def all(self) -> list[Leaf]:
        """Every leaf that was met."""
        return list(self._table.values())

    def wanted(self) -> list[Leaf]:
        """Those that ought to be reached: where an optimizer holds some of them, these."""
        wanted = [leaf for leaf in self.all() if leaf.is_wanted()]
        if self.of_model and not any(leaf.stepped for leaf in self.of_model):
            return [leaf for leaf in self.of_model if leaf.is_wanted()]
        return [leaf for leaf in wanted if leaf.stepped] or wanted

    def is_copy(self, leaf: Leaf) -> bool:
        """Whether a leaf that is reached has nearly the same values, as a student has."""
        others = (other for other in self.all() if other is not leaf)
        return any(other.trained and other.reached and leaf.is_like(other) for other in others)


class Optimizers:
    """Those that were given, and those that made a step in the block."""

    def __init__(self, given: list[Optimizer], leaves: Leaves, looking: Callable[[], Any]) -> None:
        self.given, self._looking = given, looking
        self.stepping = 0  # how many steps are being made, one inside another
        self.cleared: dict[Place, None] = {}  # gradients that went before a step could use them
        self._leaves = leaves
        self._seen: list[Optimizer] = list(given)
        self._since_backward: Place | None = None  # where gradients were set to None
        self._is_fresh = False  # a backward pass has filled them since the last step

    @contextmanager
    def watched(self) -> Iterator[None]:
        """See each step in the block, of every optimizer."""
        before = register_optimizer_step_pre_hook(self._begin_step)
        after = register_optimizer_step_post_hook(self._end_step)
        try:
            yield
        finally:
            before.remove()
            after.remove()

    def _begin_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.stepping += 1
        with self._looking():
            self._see_step(optimizer, len(args) > 1 or kwargs.get("closure") is not None)

    def _see_step(self, optimizer: Optimizer, has_closure: bool) -> None:
        if not any(optimizer is other for other in self._seen):
            self._seen.append(optimizer)
            self._leaves.meet_optimizer(optimizer)
        if self._since_backward is not None and not has_closure:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
            if not any(state_of(gradient) > State.ZERO for gradient in gradients):
                self.cleared[self._since_backward] = None
        self._since_backward, self._is_fresh = None, False

    def _end_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        del optimizer, args, kwargs
        self.stepping = max(0, self.stepping - 1)

    def see_backward(self) -> None:
        """A backward pass has filled the gradients."""
        self._since_backward, self._is_fresh = None, True

    def see_cleared(self) -> None:
        """Gradients were set to None, or to 0 by zero_grad."""
        if self._is_fresh and self._since_backward is None:
            self._since_backward = find_caller().place

    def forgotten(self) -> list[Leaf]:
        """Parameters that get a gradient and that no optimizer holds; none if none was seen."""
        leaves = self._leaves.all() if self._seen else []
        return [leaf for leaf in leaves if leaf.fed and leaf.is_parameter and not leaf.stepped]

    def held_elsewhere(self) -> bool:
        """Whether an optimizer was given or seen of which no parameter is the model's."""
        of_model = self._leaves.of_model
        return bool(self._seen and of_model) and not any(leaf.stepped for leaf in of_model)


def as_list(optimizer: Optimizer | Iterable[Optimizer] | None) -> list[Optimizer]:
    """None, one optimizer or several, as a list."""
    if optimizer is None:
        return []
    several = [optimizer] if isinstance(optimizer, Optimizer) else optimizer
    if isinstance(several, Iterable):
        several = list(several)
        if all(isinstance(each, Optimizer) for each in several):
            return several
    got = type(optimizer).__name__
    raise TypeError(f"optimizer must be an optimizer of torch, or several, got {got}")
