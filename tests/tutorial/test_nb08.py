import numpy as np
import pytest
import torch

from saetools.tutorial.exercises.nb08 import check_common_threshold, check_next_threshold


def unfinished(*_):
    raise NotImplementedError


def share(theta, z):
    return (z > theta).float().mean(0)


def moved(theta, z, rho, rate, *, share=None, spread=None, sign=1.0, relative=True):
    f = (z > theta).float().mean(0) if share is None else share
    step = rate * (z.std(0) if spread is None else spread)
    return theta + sign * step * ((f / rho - 1) if relative else (f - rho))


NEXT = {
    "correct": moved,
    "1: correct": lambda t, z, r, e: moved(t, z, r, e, spread=z.std(0, correction=0)),
    "not answered yet": unfinished,
    "one threshold per latent, a tensor of shape (3,), got float": lambda *_: 0.0,
    "the wrong way": lambda t, z, r, e: moved(t, z, r, e, sign=-1.0),
    "own spread": lambda t, z, r, e: moved(t, z, r, e, spread=1.0),
    "the old threshold is lost": lambda t, z, r, e: moved(t, z, r, e) - t,
    "divide by rho": lambda t, z, r, e: moved(t, z, r, e, relative=False),
    "count above theta": lambda t, z, r, e: moved(t, z, r, e, share=(z > 0).float().mean(0)),
    "count each latent's rows": lambda t, z, r, e: moved(t, z, r, e, share=(z > t).float().mean()),
    "latent's own, `z.std(0)`": lambda t, z, r, e: moved(t, z, r, e, spread=z.std()),
    "that is the variance": lambda t, z, r, e: moved(t, z, r, e, spread=z.var(0)),
    "and not rho / f - 1": lambda t, z, r, e: t + e * z.std(0) * (r / share(t, z) - 1),
    "that is 1 - rho / f": lambda t, z, r, e: t + e * z.std(0) * (1 - r / share(t, z)),
    "subtract 1:": lambda t, z, r, e: t + e * z.std(0) * share(t, z) / r,
    "the rate is missing": lambda t, z, r, e: moved(t, z, r, 1.0),
    "that is a count": lambda t, z, r, e: moved(t, z, r, e, share=(z > t).float().sum(0)),
    "counted below theta": lambda t, z, r, e: moved(t, z, r, e, share=(z < t).float().mean(0)),
    "theta is multiplied": lambda t, z, r, e: t * (1 + e * z.std(0) * (share(t, z) / r - 1)),
    "where it passes": lambda t, z, r, e: moved(t, z, r, e, spread=(z * (z > t)).std(0)),
    "on this batch at once": lambda t, z, r, e: z.quantile(1 - r, dim=0),
    "correct.": lambda t, z, r, e: t.add_(e * z.std(0) * ((z >= t).float().mean(0) - r) / r),
    "expected [": lambda t, *_: t + 7,
}
COMMON = {
    "correct": lambda z, l0: z.flatten().quantile(1 - l0 / z.shape[1]),
    "2: correct": lambda z, l0: float(z.flatten().topk(round(l0 * len(z))).values[-1]) - 1e-4,
    "not answered yet": unfinished,
    "one number for all latents": lambda z, l0: z.quantile(1 - l0 / z.shape[1], dim=0),
    "few are to be above": lambda z, l0: z.quantile(l0 / z.shape[1]),
    "l0 is per row": lambda z, l0: z.flatten().topk(max(round(l0), 1)).values[-1],
    "no common one": lambda z, l0: z.quantile(1 - l0 / z.shape[1], dim=0).mean(),
    "correct.": lambda z, l0: np.quantile(z.numpy(), 1 - l0 / z.shape[1]),
    "got None": lambda *_: None,
    "the mean of the rows' own": lambda z, l0: z.topk(max(round(l0), 1)).values[:, -1].mean(),
    "the median of the rows'": lambda z, l0: z.topk(max(round(l0), 1)).values[:, -1].median(),
    "and not l0 / B": lambda z, l0: z.flatten().quantile(1 - l0 / len(z)),
    "and not l0.": lambda z, l0: z.flatten().quantile(max(1 - l0, 0)),
    "leave out the abs()": lambda z, l0: z.abs().flatten().quantile(1 - l0 / z.shape[1]),
    "the mean of a quantile per row": lambda z, l0: z.quantile(1 - l0 / z.shape[1], dim=1).mean(),
    "a row has 20.00 latents above": lambda *_: -98.0,
}


@pytest.mark.parametrize(("says", "answer"), NEXT.items(), ids=list(NEXT))
def test_each_mistake_about_the_next_threshold_is_named(says, answer, capsys):
    check_next_threshold(answer)
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(("says", "answer"), COMMON.items(), ids=list(COMMON))
def test_each_mistake_about_the_common_threshold_is_named(says, answer, capsys):
    check_common_threshold(answer)
    assert says in capsys.readouterr().out


def test_an_answer_that_is_right_for_one_size_alone_is_not_enough(capsys):
    fixed = torch.randn(300, 20, generator=torch.Generator().manual_seed(1))
    right = (fixed * torch.linspace(0.2, 3.0, 20)).flatten().quantile(0.9)
    check_common_threshold(lambda *_: right)
    assert "and not 0.5" in capsys.readouterr().out
