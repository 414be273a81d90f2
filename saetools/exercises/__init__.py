"""The checks behind the notebooks' exercises. Each says which mistake an answer makes.

A check prints its verdict. An answer that is not written yet is no error, so that a notebook
runs from top to bottom before its reader has answered. One file a notebook.
"""

from saetools.exercises.all_together import check_next_price, check_phi
from saetools.exercises.clamping import check_add_one, check_eps_for_push
from saetools.exercises.initialisation import check_mixed_share, check_shift_bias
from saetools.exercises.lost_gradients import (
    check_gradient_verdicts,
    check_kept_inside,
    check_planted_faults,
)
from saetools.exercises.posted import check_reaches, check_row_frequency
from saetools.exercises.soft_counts import check_rectangle_slope, check_straight_through
from saetools.exercises.start import check_loss, check_triage

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
