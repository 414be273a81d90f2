"""Sparse autoencoders whose units fire as often as you ask.

`saetools` is what the notebooks of this project import, and what you import into your own model.
"""

from saetools.data import ChicagoContext, SparseMixture, chicago_context, sparse_mixture
from saetools.forum_post import PostedAutoencoder, posted_penalty
from saetools.frequency import activation_frequency
from saetools.metrics import (
    Evaluation,
    FrequencyMeter,
    dead_latents,
    dense_latents,
    evaluate,
    fvu,
    l0,
)
from saetools.models import Output, SparseAutoencoder
from saetools.penalties import bernoulli_kl
from saetools.training import History, batches, train

__all__ = [
    "ChicagoContext",
    "Evaluation",
    "FrequencyMeter",
    "History",
    "Output",
    "PostedAutoencoder",
    "SparseAutoencoder",
    "SparseMixture",
    "activation_frequency",
    "batches",
    "bernoulli_kl",
    "chicago_context",
    "dead_latents",
    "dense_latents",
    "evaluate",
    "fvu",
    "l0",
    "posted_penalty",
    "sparse_mixture",
    "train",
]
__version__ = "0.1.0"
