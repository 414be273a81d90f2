"""The checks behind the notebooks' exercises. Each says which mistake an answer makes.

A check prints its verdict. An answer that is not written yet is no error, so that a notebook
runs from top to bottom before its reader has answered. One file a notebook.
"""

from saetools.exercises.lost_gradients import (
    check_gradient_verdicts,
    check_kept_inside,
    check_planted_faults,
)
from saetools.exercises.posted import check_reaches, check_row_frequency

__all__ = [
    "check_gradient_verdicts",
    "check_kept_inside",
    "check_planted_faults",
    "check_reaches",
    "check_row_frequency",
]
