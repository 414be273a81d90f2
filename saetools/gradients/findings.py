"""What the tracer reports: plain data, and how it is shown."""

import html
from dataclasses import dataclass, field

_MOST_ASIDE = 4  # lines of what is set aside that are shown


@dataclass(frozen=True)
class Finding:
    """One place where a gradient was lost, or may have been."""

    # "cut", "zeroed", "not finite", "detached parameter"; with an optimizer also "not optimized"
    # and "cleared"
    kind: str
    op: str  # the operation by its public name; of a parameter, its own name
    filename: str  # relative to the working directory, or "notebook cell"
    lineno: int  # counted from 1, in a notebook cell from its first line
    source: str  # the line itself
    reason: str
    advice: str
    share: float = 1.0  # of the entries, or of the units, concerned
    layer: str = ""  # the layer that called it, such as "model.5 (ReLU)"

    def __str__(self) -> str:
        return (
            f"{self.kind} at {self.what()}, {self.filename}, line {self.lineno}{self.part()}\n"
            f"       {self.source}\n   why: {self.reason}\n   instead: {self.advice}"
        )

    def what(self) -> str:
        """The operation, and the layer that called it."""
        return f"{self.op} in {self.layer}" if self.layer else self.op

    def part(self) -> str:
        """How much of it is concerned."""
        return "" if self.share == 1 else f" ({100 * self.share:.2g} % of its entries or units)"

    def shortly(self) -> str:
        """In one line."""
        return f"{self.what()}, {self.filename}, line {self.lineno}: {self.source}"


@dataclass
class Trace:
    """What `trace_gradients` found. Print it, or go through `findings`."""

    findings: list[Finding] = field(default_factory=list)
    # Seen, and not counted as faults, the most suspicious first: values that left the graph as
    # Python numbers, losses at their floor, units silent in one batch, masks, stopped gradients.
    not_accused: list[Finding] = field(default_factory=list)
    operations: int = 0
    backward_calls: int = 0
    parameters: int = 0  # that ought to be reached
    reached: int = 0  # of these
    hints: list[str] = field(default_factory=list)  # where else to look

    def __str__(self) -> str:
        found = [f"{n}. {f}" for n, f in enumerate(self.findings, 1)] or ["No fault found."]
        return "\n".join([*found, *self._aside(), *self.hints, self.looked_at()])

    def _aside(self) -> list[str]:
        """What was set aside, in a few lines."""
        lines: list[str] = []
        last = ""
        for finding in self.not_accused[:_MOST_ASIDE]:
            if finding.reason != last:
                lines.append(f"Set aside: {finding.reason}")
                last = finding.reason
            lines.append(f"   {finding.shortly()}")
        if more := len(self.not_accused) - _MOST_ASIDE:
            lines += [f"   and {more} more in trace.not_accused"] * (more > 0)
        return lines

    def looked_at(self) -> str:
        """What was looked at: silence is evidence only of that."""
        words = [_count(self.operations, "operation"), _count(self.backward_calls, "backward call")]
        if self.parameters:
            words.append(f"{self.reached} of {_count(self.parameters, 'parameter')} reached")
        return ", ".join(words)

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{h}</th>' for h in ("kind", "where", "line", "why"))
        rows = [(f.kind, f) for f in self.findings]
        rows += [("set aside", f) for f in self.not_accused[:_MOST_ASIDE]]
        body = "".join(
            f"<tr><td>{kind}</td><td>{html.escape(f.what())}<br>{html.escape(f.filename)}, line "
            f"{f.lineno}</td><td><code>{html.escape(f.source)}</code></td>"
            f"<td>{html.escape(f.reason)}; {html.escape(f.advice)}</td></tr>"
            for kind, f in rows
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        lines = [] if self.findings else ["No fault found."]
        lines += [*self.hints, self.looked_at()]
        below = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
        return (table if rows else "") + below


def _count(number: int, what: str) -> str:
    """
    >>> _count(1, "operation"), _count(2, "operation")
    ('1 operation', '2 operations')
    """
    return f"{number} {what}" + "s" * (number != 1)
