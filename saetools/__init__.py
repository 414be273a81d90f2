"""Sparse autoencoders whose units fire as often as you ask.

The rooms: the idea (frequency, penalties, initialise, metrics), `data`, `training`, `gradients`,
`reuse` for other people's models and loops, `tutorial` for the notebooks alone.
"""

from importlib.util import find_spec as _find_spec

if not (_find_spec("torch") and _find_spec("numpy")):
    from saetools.tutorial.environment import check_environment as _check_environment

    raise ModuleNotFoundError(_check_environment())

# In place of the code's ReLU.
from saetools.activations.batch_top_k import BatchTopK
from saetools.activations.group_bias import GroupBiasAdaptation
from saetools.activations.jump_relu import JumpReLU
from saetools.activations.law import Law, fit_law, frequency_law
from saetools.activations.threshold import FrequencyThreshold
from saetools.activations.top_k import TopK
from saetools.activations.winner_take_all import WinnerTakeAll

# What goes in, and the idea: a count with a slope, its penalty, the start, the measure.
from saetools.data import ChicagoContext, SparseMixture, chicago_context, sparse_mixture
from saetools.frequency import (
    activation_frequency,
    gaussian_step,
    rectangle_step,
    smooth,
    soft_frequency,
    step_frequency,
    straight_through_frequency,
    straight_through_gate,
    tanh_step,
)
from saetools.initialise import skewed_units_, target_frequency_, unit_spread_
from saetools.metrics import (
    Evaluation,
    FrequencyMeter,
    dead_latents,
    dense_latents,
    evaluate,
    fvu,
    l0,
    usage_perplexity,
)
from saetools.penalties import bernoulli_kl, frequency_penalty, penalty_weight

# Other people's models and loops.
from saetools.reuse.accumulation import backward_in_parts
from saetools.reuse.capture import Capture
from saetools.reuse.distributed import RunningFrequency, over_ranks
from saetools.reuse.layer import train_layer_at_frequency
from saetools.reuse.pooling import pool_rows
from saetools.reuse.reviving import restart_rows_, revive_
from saetools.reuse.routing import top_k_margins
from saetools.reuse.saving import load, save

# One loop, for one model or many, and the recipe.
from saetools.training.checkpoints import History
from saetools.training.ensemble import train_ensemble
from saetools.training.loop import train
from saetools.training.models import Output, SparseAutoencoder
from saetools.training.multipliers import FrequencyMultipliers
from saetools.training.recipe import learn_shift_hold, train_at_frequency
from saetools.training.rows import batches
from saetools.training.start import initialise_for_frequency_, start_at_frequency_

# The question, and an answer that only a notebook needs.
from saetools.tutorial.forum_post import PostedAutoencoder, posted_penalty
from saetools.tutorial.logits import bernoulli_kl_with_logits, soft_frequency_logits

__version__ = "0.1.0"
# fmt: off
__all__ = [
    "BatchTopK", "Capture", "ChicagoContext", "Evaluation", "FrequencyMeter",
    "FrequencyMultipliers", "FrequencyThreshold", "GroupBiasAdaptation", "History", "JumpReLU",
    "Law", "Output", "PostedAutoencoder", "RunningFrequency", "SparseAutoencoder", "SparseMixture",
    "TopK", "WinnerTakeAll", "activation_frequency", "backward_in_parts", "batches", "bernoulli_kl",
    "bernoulli_kl_with_logits", "chicago_context", "dead_latents", "dense_latents", "evaluate",
    "fit_law", "frequency_law", "frequency_penalty", "fvu", "gaussian_step",
    "initialise_for_frequency_", "l0", "learn_shift_hold", "load", "over_ranks", "penalty_weight",
    "pool_rows", "posted_penalty", "rectangle_step", "restart_rows_", "revive_", "save",
    "skewed_units_", "smooth", "soft_frequency", "soft_frequency_logits", "sparse_mixture",
    "start_at_frequency_", "step_frequency", "straight_through_frequency", "straight_through_gate",
    "tanh_step", "target_frequency_", "top_k_margins", "train", "train_at_frequency",
    "train_ensemble", "train_layer_at_frequency", "unit_spread_", "usage_perplexity",
]
