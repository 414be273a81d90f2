"""Where was a gradient lost? `trace_gradients` names the line, `gradient_reach` the parameters.

The way through: `trace` is the door, `tracer` sorts the calls of torch, `watch` follows values
from operation to operation (`flow`, `sums`, `sites`, `numbers`, `finite`), `backward` reads each
backward pass (`nodes`, `zeros`, `units`), and `verdict` says what matters (`advice`, `findings`).
"""

from saetools.gradients.findings import Finding, Trace
from saetools.gradients.reach import Reach, gradient_reach
from saetools.gradients.trace import trace_gradients

__all__ = ["Finding", "Reach", "Trace", "gradient_reach", "trace_gradients"]
