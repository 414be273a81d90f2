"""The methods of the grid by name, what is left out in the ablation, and the settings tried."""

from collections.abc import Callable
from functools import partial
from typing import Any

from saetools.tutorial import baselines, largest, rivals
from saetools.tutorial import methods as own
from saetools.tutorial.fixes import FIXES

HELD: dict[str, Callable[..., own.Plan]] = {
    "recipe": own.recipe_plan,
    "penalty, held": own.penalty_plan,
    "multipliers, held": partial(own.multipliers_plan, hold=True),
    "square, held": partial(own.square_plan, hold=True),
}
FREE: dict[str, Callable[..., own.Plan]] = {
    "no penalty": own.unpenalised_plan,
    "L1": partial(own.l1_plan, weight=2e-3),
    "multipliers": own.multipliers_plan,
    "square": own.square_plan,
}
OTHERS: dict[str, Callable[..., Any]] = {
    "BatchTopK": largest.batch_top_k,
    "hard concrete": rivals.hard_concrete,
    "hard concrete, held": partial(rivals.hard_concrete, hold=True),
    "tracked threshold": rivals.tracked_threshold,
    "winner-take-all": partial(largest.winner_take_all, start=True),
    "JumpReLU": rivals.jump_relu,
    "TopK": largest.top_k,
    "winner-take-all, default start": largest.winner_take_all,
}
UNTRAINED: dict[str, Callable[..., Any]] = {
    "FastICA": baselines.fast_ica,
    "PCA": baselines.principal_components,
    "random directions": baselines.random_directions,
    "start, untrained": baselines.untrained_start,
}


def without(fix: str) -> list[str]:
    """All fixes but one."""
    return [other for other in FIXES if other != fix]


def ablation() -> dict[str, dict[str, Any]]:
    """The post's training, each fix left out, all of them, and half measures: with which fixes."""
    found: dict[str, dict[str, Any]] = {"all": {"fixes": FIXES}}
    found |= {f"all but {fix}": {"fixes": without(fix)} for fix in FIXES}
    found["soft count"] = {"fixes": without("straight-through"), "count": "soft"}
    found["clamp"] = {"fixes": without("smoothing"), "ends": "clamp"}
    start = {"start from data", "skewed directions"}
    found["default start"] = {"fixes": [fix for fix in FIXES if fix not in start]}
    found["as posted"] = {"fixes": []}
    found["only sigmoid output"] = {"fixes": ["sigmoid output"]}
    return found


TRIED: dict[str, tuple[Callable[..., Any], list[dict[str, Any]]]] = {
    "penalty, held": (own.penalty_plan, [{"weight": w} for w in (0.05, 0.1, 0.2, 0.4)]),
    "multipliers": (own.multipliers_plan, [{"damping": d} for d in (0.1, 0.3, 1.0)]),
    "multipliers, held": (
        partial(own.multipliers_plan, hold=True),
        [{"damping": d} for d in (0.1, 0.3, 1.0)],
    ),
    "square": (
        own.square_plan,
        [{"weight": w} for w in (0.003, 0.01, 0.03, 0.1)] + [{"bandwidth": b} for b in (0.5, 2.0)],
    ),
    "square, held": (
        partial(own.square_plan, hold=True),
        [{"weight": w} for w in (0.003, 0.01, 0.03, 0.1)],
    ),
    "hard concrete": (
        rivals.hard_concrete,
        [{"weight": w, "temperature": t} for t in (0.3, 0.6) for w in (0.2, 1.0)],
    ),
    "hard concrete, held": (
        partial(rivals.hard_concrete, hold=True),
        [{"weight": w} for w in (0.05, 0.1, 0.2)] + [{"temperature": 0.6}],
    ),
    "JumpReLU": (
        rivals.jump_relu,
        [{"weight": w, "bandwidth": b} for b in (0.3, 1.0) for w in (0.03, 0.1, 0.3)],
    ),
    "tracked threshold": (
        rivals.tracked_threshold,
        [{"passes": p, "rate": r} for p in ("z", "excess") for r in (0.02, 0.05, 0.2)],
    ),
    "L1": (own.l1_plan, [{"weight": w} for w in (5e-4, 2e-3, 8e-3)]),
    "winner-take-all": (largest.winner_take_all, [{"start": s} for s in (False, True)]),
}
