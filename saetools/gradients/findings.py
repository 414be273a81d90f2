"""What the tracer reports."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finding:
    """One place where a gradient was lost."""

    kind: str  # "cut", "zeroed", "not finite" or "detached parameter"
    op: str  # the operation by its public name; of a detached parameter, its own name
    filename: str  # relative to the working directory, or "notebook cell"
    lineno: int  # counted from 1, in a notebook cell from its first line
    source: str  # the line itself
    reason: str
    advice: str
    share: float = 1.0  # of the entries, or of the units, concerned

    def __str__(self) -> str:
        part = "" if self.share == 1 else f" ({100 * self.share:.2g} % of its entries or units)"
        return (
            f"{self.kind} at {self.op}, {self.filename}, line {self.lineno}{part}\n"
            f"       {self.source}\n   why: {self.reason}\n   instead: {self.advice}"
        )


@dataclass
class Trace:
    """What `trace_gradients` found. Print it, or go through `findings`."""

    findings: list[Finding] = field(default_factory=list)
    aside: list[Finding] = field(default_factory=list)  # cuts on purpose, or of no consequence

    def __str__(self) -> str:
        head = f"{len(self.findings)} finding(s), {len(self.aside)} set aside"
        return "\n".join([head, *(f"{n}. {f}" for n, f in enumerate(self.findings, 1))])
