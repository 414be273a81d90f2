"""Optimizers: which parameters they hold, and whether there was anything to step on."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from saetools.gradients.frames import Place, find_caller
from saetools.gradients.leaves import Leaf, Leaves


class Optimizers:
    """Those that were given, and those that made a step in the block."""

    def __init__(self, given: list[Optimizer], leaves: Leaves) -> None:
        self.given = given
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
        has_closure = len(args) > 1 or kwargs.get("closure") is not None
        if not any(optimizer is other for other in self._seen):
            self._seen.append(optimizer)
            self._leaves.meet_optimizer(optimizer)
        if self._since_backward is not None and not has_closure:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
            if not any(g is not None and bool(g.any()) for g in gradients):
                self.cleared[self._since_backward] = None
        self._since_backward, self._is_fresh = None, False
        self.stepping += 1

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
    return [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
