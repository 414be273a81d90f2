"""Each check of notebook 00 accepts right answers, and names the mistake of each wrong one."""

import pytest
import torch

from saetools import (
    bernoulli_kl,
    frequency_penalty,
    posted_penalty,
    soft_frequency,
    straight_through_frequency,
)
from saetools.tutorial.exercises.nb00 import check_loss, check_triage


def unfinished(*_):
    raise NotImplementedError


def triage(f, rho, **wrong):
    never, always, near = f == 0, f > 0.99, (f - rho).abs() < 0.02
    counts = {
        "never on": never.sum(),
        "always on": always.sum(),
        "near rho": near.sum(),
        "elsewhere": (~(never | always | near)).sum(),
    }
    return counts | wrong


def by_hand(f, rho):
    counts = dict.fromkeys(("never on", "always on", "near rho", "elsewhere"), 0)
    for value in f.flatten().tolist():
        if value == 0:
            counts["never on"] += 1
        elif value > 0.99:
            counts["always on"] += 1
        else:
            counts["near rho" if abs(value - rho) < 0.02 else "elsewhere"] += 1
    return counts


def changing(f, rho):
    counts = triage(f, rho)
    f.zero_()
    return counts


def unit_by_unit(f, rho):
    return triage(f, rho, **{"never on": sum(1 for row in f if row == 0)})


def with_numpy(f, rho):
    f = f.numpy()
    kinds = {"never on": f == 0, "always on": f > 0.99, "near rho": abs(f - rho) < 0.02}
    counts = {kind: mask.sum() for kind, mask in kinds.items()}
    return counts | {"elsewhere": f.size - sum(counts.values())}


def shares(f, rho):
    return {kind: count / f.numel() for kind, count in triage(f, rho).items()}


TRIAGE = [
    ("correct.", triage),
    ("correct.", with_numpy),
    ("correct.", lambda f, rho: {kind: count.float() for kind, count in triage(f, rho).items()}),
    ("never on: 0.167 is a share", shares),
    ("a share, from 0 to 1", lambda f, rho: triage(f, rho, **{"always on": (f > 99).sum()})),
    ("expected one number, got list", lambda f, rho: triage(f, rho, **{"near rho": [0, 1]})),
    ("expected one number, got NoneType", lambda f, rho: triage(f, rho, elsewhere=None)),
    ("neither True nor False", unit_by_unit),
    ("6 of 12 units are counted", lambda f, rho: triage(f[0], rho)),
    ("6 of 12 units are counted: take", lambda f, rho: triage(f.mean(0), rho)),
    (
        "2 % of rho is far less",
        lambda f, rho: triage(f, rho, **{"near rho": ((f / rho - 1).abs() < 0.02).sum()}),
    ),
    (
        "elsewhere for rho = 0.2: each unit is of one kind",
        lambda f, rho: triage(f, rho, elsewhere=((f > 0) & (f < 0.99)).sum()),
    ),
    ("correct.", by_hand),
    ("not answered yet", unfinished),
    ("expected a dict with the keys", lambda f, rho: 12),
    ("expected a dict with the keys", lambda f, rho: {"never on": 2}),
    ("it changes the frequencies", changing),
    ("sum over all units", lambda f, rho: triage(f, rho, **{"never on": f == 0})),
    ("got shape (6,)", lambda f, rho: triage(f, rho, **{"near rho": (f > 0.99).sum(0)})),
    ("is not dead", lambda f, rho: triage(f, rho, **{"never on": (f < 0.01).sum()})),
    (
        "never on for rho = 0.2: expected 2, got 0",
        lambda f, rho: triage(f, rho, **{"never on": (f < 0).sum()}),
    ),
    ("not only for all", lambda f, rho: triage(f, rho, **{"always on": (f == 1).sum()})),
    (
        "always on for rho = 0.2: expected 3, got 4",
        lambda f, rho: triage(f, rho, **{"always on": (f > 0.5).sum()}),
    ),
    ("to the last digit", lambda f, rho: triage(f, rho, **{"near rho": (f == rho).sum()})),
    ("absolute distance", lambda f, rho: triage(f, rho, **{"near rho": (f - rho < 0.02).sum()})),
    ("use the argument", lambda f, rho: triage(f, 0.2)),
    (
        "near rho for rho = 0.2: expected 2, got 3",
        lambda f, rho: triage(f, rho, **{"near rho": ((f - rho).abs() < 0.11).sum()}),
    ),
    ("leave those out", lambda f, rho: triage(f, rho, elsewhere=f.numel())),
    ("elsewhere for rho = 0.2: expected 5, got 4", lambda f, rho: triage(f, rho, elsewhere=4)),
]


def mse(output, batch):
    return (output.reconstruction - batch).square().mean()


def pull(output, rho):
    return frequency_penalty(output.pre_activations, rho=rho)


def by_parts(o, x, rho, w):
    rho_hat = straight_through_frequency(o.pre_activations, 0.3)
    return mse(o, x) + (w * bernoulli_kl(rho_hat, rho=rho)).sum()  # no smoothing: near enough


def posted(o, x, rho, w):
    return mse(o, x) + w * posted_penalty(o.latents, batch_size=20 * len(x), rho=rho)


def other_slope(o, x, rho, w):
    wide = frequency_penalty(o.pre_activations, rho=rho, temperature=2.0)
    return mse(o, x) + w * wide


def rooted(o, x, rho, w):
    return mse(o, x).sqrt() + w * pull(o, rho)


def soft(o, x, rho, w):
    return mse(o, x) + w * bernoulli_kl(soft_frequency(o.pre_activations, 0.3), rho=rho).sum()


LOSS = [
    ("stands at the error", lambda o, x, rho, w: w * mse(o, x) + pull(o, rho)),
    ("is the penalty's alone", lambda o, x, rho, w: w * (mse(o, x) + pull(o, rho))),
    ("applied twice", lambda o, x, rho, w: mse(o, x) + w * w * pull(o, rho)),
    ("have changed places", lambda o, x, rho, w: mse(o, x) + rho * pull(o, w)),
    ("averaged over the units", lambda o, x, rho, w: mse(o, x) + w * pull(o, rho) / 4),
    ("a soft count's penalty", soft),
    (
        "the absolute error",
        lambda o, x, rho, w: (o.reconstruction - x).abs().mean() + w * pull(o, rho),
    ),
    ("your error has none", lambda o, x, rho, w: mse(o, x).item() + w * pull(o, rho)),
    (
        "correct.",
        lambda o, x, rho, w: (
            torch.dist(o[0], x) ** 2 / x.numel()
            + frequency_penalty(o[2], rho=torch.full((4,), rho), weight=w)
        ),
    ),
    ("correct.", lambda o, x, rho, w: mse(o, x) + w * pull(o, rho)),
    (
        "correct.",
        lambda o, x, rho, w: (
            torch.nn.functional.mse_loss(o.reconstruction, x)
            + frequency_penalty(o.pre_activations, rho=rho, weight=w)
        ),
    ),
    ("correct.", by_parts),
    ("not answered yet", unfinished),
    (
        "one number, a tensor of shape (), got float",
        lambda o, x, rho, w: (mse(o, x) + w * pull(o, rho)).item(),
    ),
    ("got shape (20,)", lambda o, x, rho, w: (o.reconstruction - x).square().mean(0)),
    ("no gradient at all", lambda o, x, rho, w: (mse(o, x) + w * pull(o, rho)).detach()),
    ("the penalty is missing", lambda o, x, rho, w: mse(o, x)),
    ("the error is missing", lambda o, x, rho, w: w * pull(o, rho)),
    ("the weight is missing", lambda o, x, rho, w: mse(o, x) + pull(o, rho)),
    ("it is rewarded", lambda o, x, rho, w: mse(o, x) - w * pull(o, rho)),
    (
        "is summed: take its mean",
        lambda o, x, rho, w: (o.reconstruction - x).square().sum() + w * pull(o, rho),
    ),
    (
        "summed over the features",
        lambda o, x, rho, w: (o.reconstruction - x).square().sum(-1).mean() + w * pull(o, rho),
    ),
    ("leave the root out", rooted),
    ("use the argument", lambda o, x, rho, w: mse(o, x) + w * pull(o, 0.2)),
    ("expected ", lambda o, x, rho, w: 7 * mse(o, x)),
    ("your penalty has none", posted),
    (
        "must see output.pre_activations",
        lambda o, x, rho, w: mse(o, x) + w * frequency_penalty(o.latents, rho=rho),
    ),
    ("not that of frequency_penalty", other_slope),
]


@pytest.mark.parametrize(("says", "answer"), TRIAGE, ids=[says for says, _ in TRIAGE])
def test_each_mistake_about_triage_is_named(says, answer, capsys):
    check_triage(answer)
    assert says in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:pre_activations seem to be latents")
@pytest.mark.parametrize(("says", "answer"), LOSS, ids=[says for says, _ in LOSS])
def test_each_mistake_about_the_loss_is_named(says, answer, capsys):
    check_loss(answer)
    assert says in capsys.readouterr().out
