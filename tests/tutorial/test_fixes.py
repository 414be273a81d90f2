import math

import pytest
import torch

from saetools import (
    Output,
    PostedAutoencoder,
    SparseAutoencoder,
    posted_penalty,
    train,
    train_ensemble,
)
from saetools.tutorial import methods
from saetools.tutorial.comparison import tasks
from saetools.tutorial.fixes import FIXES, with_fixes
from saetools.tutorial.methods import penalty_plan, together

DAYS = tasks()["days"]
SMALL = DAYS._replace(train=DAYS.train[::9], test=DAYS.test[::9])  # 507 and 127 rows
STEPS = 7
SEEDS = (3, 8)


def parameters(models):
    return [value.detach() for model in models for value in model.parameters()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def untrained(kind=SparseAutoencoder):
    return [kind(seed=seed) for seed in SEEDS]


def test_all_fixes_make_the_recipe_without_multipliers():
    for fixes in (FIXES, FIXES[::-1]):
        made = with_fixes(SMALL, SEEDS, fixes, steps=21)
        [recipe] = together(SMALL, SEEDS, [penalty_plan(SMALL, SEEDS)], steps=21)
        for one, other in zip(parameters(made), parameters(recipe), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_no_fix_trains_as_without_a_penalty():
    plain = untrained(PostedAutoencoder)
    train_ensemble(plain, SMALL.train, None, steps=STEPS, seeds=SEEDS)
    made = with_fixes(SMALL, SEEDS, (), steps=STEPS)
    assert same(parameters(made), parameters(plain))
    for count, ends in (("hard", "clamp"), ("hard", "overwrite")):
        made = with_fixes(SMALL, SEEDS, (), count=count, ends=ends, steps=STEPS)
        assert same(parameters(made), parameters(plain))


def test_no_fix_is_the_posts_network_under_the_posts_penalty():
    [model] = with_fixes(SMALL, [3], (), steps=STEPS)
    posted = PostedAutoencoder(seed=3)

    def as_posted(output):
        return posted_penalty(output.latents, batch_size=20 * len(output.latents), rho=SMALL.rho)

    train(posted, SMALL.train, as_posted, steps=STEPS, seed=3)
    for a, b in zip(model.parameters(), posted.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


def penalty_of(monkeypatch, *fixes, **options):
    """The penalty that `with_fixes` trains with."""
    caught = []
    monkeypatch.setattr(methods, "train_ensemble", lambda *args, **_: caught.append(args[2]))
    with_fixes(SMALL, [0], fixes, steps=STEPS, **options)
    return caught[0]


def test_the_penalty_without_a_fix_has_the_posts_value_also_at_the_ends(monkeypatch):
    penalty = penalty_of(monkeypatch)
    z = torch.randn(50, 4)
    z[:, 1], z[:, 2] = -1, 1
    z.requires_grad_()
    cost = penalty(Output(z, z.relu(), z))
    expected = posted_penalty(z.relu(), batch_size=20 * 50, rho=SMALL.rho)
    assert cost.item() == pytest.approx(expected.item(), rel=1e-5)
    assert not cost.requires_grad


@pytest.mark.parametrize(
    ("fixes", "options", "moved"),  # units in between, dead, always on: which have a gradient
    [
        ((), {"count": "soft"}, [True, True, True]),
        (["straight-through"], {}, [True, False, False]),
        (["straight-through"], {"ends": "clamp"}, [True, False, False]),
        (["straight-through", "smoothing"], {}, [True, True, True]),
    ],
)
def test_which_units_a_penalty_moves(monkeypatch, fixes, options, moved):
    penalty = penalty_of(monkeypatch, *fixes, **options)
    z = torch.randn(50, 3)
    z[:, 1], z[:, 2] = -0.5, 0.5
    z.requires_grad_()
    cost = penalty(Output(z, z.relu(), z))
    cost.backward()
    assert math.isfinite(cost.item())
    assert (z.grad != 0).any(0).tolist() == moved


@pytest.mark.parametrize("left_out", FIXES)
def test_each_fix_makes_a_difference(left_out):
    fixes = [fix for fix in FIXES if fix != left_out]
    every, some = (with_fixes(SMALL, SEEDS, chosen, steps=STEPS) for chosen in (FIXES, fixes))
    assert not same(parameters(every), parameters(some))


def test_the_output_layer_is_the_posts_but_for_its_fix():
    for fixes, output in (((), torch.relu), (["sigmoid output"], torch.sigmoid)):
        assert with_fixes(SMALL, [0], fixes, steps=1)[0].output is output


def test_an_unknown_fix_is_refused():
    with pytest.raises(ValueError, match=r"fixes must be of \('sigmoid.*, got \['luck'\]"):
        with_fixes(SMALL, SEEDS, ["smoothing", "luck"], steps=STEPS)
