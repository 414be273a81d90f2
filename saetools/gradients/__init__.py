"""Where was a gradient lost? `trace_gradients` names the line, `gradient_reach` the parameters.

The way through: `trace` is the door and sorts the calls of torch (`calls`), `watch` follows values
from operation to operation (`flow`, `cuts`, `numbers`, `finite`), `nodes` reads each backward
pass (`zeros`, `units`), and `verdict` says what matters (`advice`, `findings`).
"""

from saetools.gradients.findings import Finding, Trace
from saetools.gradients.reach import Reach, gradient_reach
from saetools.gradients.trace import trace_gradients

__all__ = ["Finding", "Reach", "Trace", "gradient_reach", "trace_gradients"]
