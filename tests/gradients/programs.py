"""Runs the programs in cases/, and reads the marks in them."""

import contextlib
import io
import re
import warnings
from dataclasses import dataclass

import torch

HEADER = """
import contextlib, copy, math
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from saetools.gradients import gradient_reach, trace_gradients
"""


@dataclass
class Outcome:
    """What came of a program."""

    trace: object
    must: dict  # line -> kind, one of which is to be named
    may: dict  # line -> kind, which is right as well
    check: list  # tensors, whose bits tracing must not change
    error: BaseException | None

    def is_named(self):
        """Whether a marked line is named, under its kind or in what is set aside, and no other."""
        found = [f for f in self.trace.findings if f.kind != "detached parameter"]
        marks = self.must | self.may
        beside = [f for f in found if f.lineno not in marks]
        is_found = any(self.must.get(f.lineno) == f.kind for f in found)
        is_shown = any(re.search(rf"line {line}\b", str(self.trace)) for line in self.must)
        return (is_found or is_shown) and not beside


def run(program, path, traced=True):
    """Run a program as if it stood in the file `path`."""
    lines = (HEADER + _dedent(program)).split("\n")
    must, may = {}, {}
    for number, line in enumerate(lines, 1):
        if mark := re.search(r"#([!=]) (.+)$", line):
            (must if mark[1] == "!" else may)[number] = mark[2].strip()
    path.write_text("\n".join(lines))
    source = "\n".join(lines)
    if not traced:
        source = re.sub(
            r"trace_gradients\(.*\) as trace", "contextlib.nullcontext() as trace", source
        )
    scope, error = {"__name__": "program"}, None
    torch.manual_seed(0)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            exec(compile(source, str(path), "exec"), scope)
        except Exception as raised:
            error = raised
    check = [t.detach().clone() for t in scope.get("check", []) if t is not None]
    return Outcome(scope.get("trace"), must, may, check, error)


def _dedent(program):
    lines = program.strip("\n").split("\n")
    indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return "\n".join(line[indent:] for line in lines)
