"""The checks behind the notebooks' exercises. Each says which mistake an answer makes.

A check prints its verdict. An answer that is not written yet is no error, so that a notebook
runs from top to bottom before its reader has answered. One file a notebook.
"""

from saetools.tutorial.exercises.nb00 import check_loss, check_triage
from saetools.tutorial.exercises.nb01 import check_reaches, check_row_frequency
from saetools.tutorial.exercises.nb02 import (
    check_gradient_verdicts,
    check_kept_inside,
    check_planted_faults,
)
from saetools.tutorial.exercises.nb03 import check_rectangle_slope, check_straight_through
from saetools.tutorial.exercises.nb04 import check_add_one, check_eps_for_push
from saetools.tutorial.exercises.nb05 import check_mixed_share, check_shift_bias
from saetools.tutorial.exercises.nb06 import check_next_price, check_phi

__all__ = [
    "check_add_one",
    "check_eps_for_push",
    "check_gradient_verdicts",
    "check_kept_inside",
    "check_loss",
    "check_mixed_share",
    "check_next_price",
    "check_phi",
    "check_planted_faults",
    "check_reaches",
    "check_rectangle_slope",
    "check_row_frequency",
    "check_shift_bias",
    "check_straight_through",
    "check_triage",
]
