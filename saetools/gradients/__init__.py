"""Where was a gradient lost? `trace_gradients` names the line, `gradient_reach` the parameters."""

from saetools.gradients.findings import Finding, Trace
from saetools.gradients.reach import Reach, gradient_reach
from saetools.gradients.trace import trace_gradients

__all__ = ["Finding", "Reach", "Trace", "gradient_reach", "trace_gradients"]
