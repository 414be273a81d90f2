"""The penalty alone where units are many and rare: image patches, 64 to 1,024 units."""

from functools import cache, partial

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import nn
from torch.optim.lr_scheduler import LinearLR

from saetools import (
    SparseAutoencoder,
    evaluate,
    frequency_penalty,
    penalty_weight,
    start_at_frequency_,
    train,
)


@cache
def patches():
    """10 x 10 grey patches of two photographs, each with a mean of 0, in a random order."""
    cut = [
        torch.tensor(image).float().mean(-1).unfold(0, 10, 2).unfold(1, 10, 2).reshape(-1, 100)
        for image in load_sample_images().images
    ]
    x = torch.cat(cut)
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    x = x - x.mean(1, keepdim=True)
    x = x[x.std(1) > 4]
    return (x / x.std()).split(24_000)[:2]


def trained(units, rho, rows, steps, **weight):
    x, held_out = patches()
    model = SparseAutoencoder((100, units), nn.Identity(), seed=0)
    start_at_frequency_([model], x[:8192], rho=rho, skewed=False)

    def penalty(output):
        return frequency_penalty(output.pre_activations, rho=rho)

    options = {"steps": steps, "batch_size": rows, "lr": 2e-3, "value_range": None}
    falling = partial(LinearLR, start_factor=1.0, end_factor=0.0, total_iters=steps)
    train(model, x, penalty, scheduler=falling, **options, **weight)
    return evaluate(model, held_out), evaluate(model, x).frequency / rho


NIGHTLY, SLOW = pytest.mark.nightly, pytest.mark.slow


@pytest.mark.parametrize(
    ("units", "rho", "rows", "steps"),
    [
        pytest.param(64, 0.05, 128, 400, marks=SLOW),
        pytest.param(256, 0.05, 128, 400, marks=SLOW),
        pytest.param(1024, 0.05, 128, 500, marks=NIGHTLY),
        pytest.param(64, 0.01, 512, 500, marks=NIGHTLY),
        pytest.param(256, 0.01, 512, 500, marks=NIGHTLY),
        pytest.param(1024, 0.01, 512, 500, marks=NIGHTLY),
    ],
)
def test_one_rule_for_the_weight_keeps_units_of_every_width_near_rho(units, rho, rows, steps):
    weight = penalty_weight(patches()[0], rho=rho, units=units)
    measured, share = trained(units, rho, rows, steps, weight=weight)
    assert share.mean().item() == pytest.approx(1, abs=0.1)
    assert ((share - 1).abs() < 0.2).float().mean() > 0.9
    assert measured.frequency.min() > 0
    assert measured.fvu < 0.95


@SLOW
def test_with_the_weight_of_many_units_few_go_where_the_error_wants_them():
    weight = penalty_weight(patches()[0], rho=0.05, units=4096)
    assert trained(64, 0.05, 128, 400, weight=weight)[1].mean() > 2
