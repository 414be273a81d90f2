"""Which loss term reaches which parameter."""

import html
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from saetools.gradients.nodes import nodes_behind
from saetools.gradients.trace import paused

NO_PATH, ZERO, NOT_FINITE = "no path", "zero", "not finite"
Cell = float | str


class Reach(dict[str, dict[str, Cell]]):
    """term -> parameter -> gradient norm, "no path", "zero" or "not finite".

    A plain dict of dicts that prints as a table, in a notebook as well.
    """

    def rows(self) -> list[list[str]]:
        """The table as text: a header, then one row a parameter."""
        names = list(next(iter(self.values()), {}))
        body = [[name, *(_text(self[term][name]) for term in self)] for name in names]
        return [["parameter", *self], *body]

    def __str__(self) -> str:
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )

    def _repr_html_(self) -> str:
        head, *body = [[html.escape(cell) for cell in row] for row in self.rows()]
        lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in body]
        header = "".join(f'<th scope="col">{cell}</th>' for cell in head)
        rows = "".join(f"<tr>{line}</tr>" for line in lines)
        return f"<table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table>"


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else f"{cell:.3g}"


def gradient_reach(
    terms: Mapping[str, Tensor],
    parameters: nn.Module | Mapping[str, Tensor] | Iterable[Tensor],
) -> Reach:
    """What each loss term sends to each parameter, one term at a time.

    It touches neither `.grad` nor the random state, and every term can be trained on afterwards.

    Args:
        terms: name -> scalar tensor, not yet backpropagated.
        parameters: a module, or name -> tensor, or tensors (numbered from 0). Those that do not
            require a gradient are left out.

    Returns:
        Reach, a dict term -> parameter -> L2 norm of the gradient, or "no path" where no graph
        leads there, "zero" where one does and nothing but zeros arrives, or "not finite".

    Raises:
        TypeError: if a term is no tensor.
        ValueError: if a term is no scalar, or no parameter requires a gradient.

    Example:
        >>> weight = torch.ones(3, requires_grad=True)
        >>> terms = {"error": weight.square().sum(), "penalty": (weight > 0).sum().float()}
        >>> print(gradient_reach(terms, {"weight": weight}))
        parameter  error  penalty
        weight     3.46   no path
    """
    if not isinstance(terms, Mapping):
        example = 'gradient_reach({"penalty": penalty}, model)'
        raise TypeError(f"terms must be a dict, got {type(terms).__name__}: say {example}")
    if isinstance(parameters, Tensor):
        parameters = [parameters]
    pairs: Iterable[tuple[str, Tensor]]
    if isinstance(parameters, nn.Module):
        pairs = parameters.named_parameters()
    elif isinstance(parameters, Mapping):
        pairs = parameters.items()
    else:
        pairs = ((str(number), tensor) for number, tensor in enumerate(parameters))
    named = {name: tensor for name, tensor in pairs if tensor.requires_grad}
    if not named:
        raise ValueError("parameters must hold a tensor that requires a gradient, got none")
    for name, term in terms.items():
        if not isinstance(term, Tensor):
            raise TypeError(f"terms[{name!r}] must be a tensor, got {type(term).__name__}")
        if term.numel() != 1 or term.is_complex():
            shape = f"{term.dtype}, shape {tuple(term.shape)}"
            raise ValueError(f"terms[{name!r}] must be a real scalar, got {shape}")
    with paused():  # a tracer around this is to see the user's backward passes, not these
        return Reach({name: _reach(term, named) for name, term in terms.items()})


def _reach(term: Tensor, named: Mapping[str, Tensor]) -> dict[str, Cell]:
    if not term.requires_grad:
        return dict.fromkeys(named, NO_PATH)
    if any("CheckpointFunction" in node.name() for node in nodes_behind([term.grad_fn])):
        gradients = _by_backward(term, list(named.values()))
    else:
        one = torch.ones_like(term)  # not term.sum(), which has no graph under no_grad
        tensors = list(named.values())
        found = torch.autograd.grad(term, tensors, one, retain_graph=True, allow_unused=True)
        gradients = list(found)
    return {name: _judge(g) for name, g in zip(named, gradients, strict=True)}


def _by_backward(term: Tensor, tensors: list[Tensor]) -> list[Tensor | None]:
    """The gradients, by a backward pass whose every trace in .grad is taken away again.

    A reentrant checkpoint hides what it holds from torch.autograd.grad.
    """
    behind = nodes_behind([term.grad_fn])
    leaves = [*tensors, *(node.variable for node in behind if hasattr(node, "variable"))]
    before = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    try:
        term.backward(torch.ones_like(term), retain_graph=True)
        return [tensor.grad for tensor in tensors]
    finally:
        for leaf, gradient in zip(leaves, before, strict=True):
            leaf.grad = gradient


def _judge(gradient: Tensor | None) -> Cell:
    if gradient is None:
        return NO_PATH
    if gradient.is_sparse:
        gradient = gradient.coalesce().values()
    if not gradient.isfinite().all():
        return NOT_FINITE
    return gradient.to("cpu", torch.float64).norm().item() if gradient.any() else ZERO
