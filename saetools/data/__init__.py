"""What goes in: real and synthetic rows in [0, 1], and the checks that every argument meets."""

from saetools.data.chicago import ChicagoContext, chicago_context
from saetools.data.mixture import SparseMixture, sparse_mixture

__all__ = ["ChicagoContext", "SparseMixture", "chicago_context", "sparse_mixture"]
