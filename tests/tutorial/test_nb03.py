import pytest
import torch

from saetools.tutorial.exercises.nb03 import check_rectangle_slope, check_straight_through


def hard(z):
    return (z > 0).float()


def ramp(z, temperature):
    return (z / (6 * temperature) + 0.5).clamp(0, 1)


ANSWERS = {
    "correct": lambda z, t: (hard(z) + (ramp(z, t) - ramp(z, t).detach())).mean(-2),
    "one number per unit": lambda z, t: hard(z).mean(),
    "that is the soft count": lambda z, t: ramp(z, t).mean(-2),
    "the value must be the hard count": lambda z, t: z.mean(-2),
    "there is no gradient": lambda z, t: hard(z).mean(-2),
    "no gradient arrives": lambda z, t: (hard(z) + 0 * z).mean(-2),
    "wrong sign": lambda z, t: (hard(z) + (ramp(z, t).detach() - ramp(z, t))).mean(-2),
    "lacks the factor": lambda z, t: (hard(z) + 6 * t * (ramp(z, t) - ramp(z, t).detach())).mean(
        -2
    ),
    "must be that of the ramp": lambda z, t: (
        hard(z) + ((z / t).sigmoid() - (z / t).sigmoid().detach())
    ).mean(-2),
}


@pytest.mark.parametrize(("says", "answer"), ANSWERS.items(), ids=list(ANSWERS))
def test_straight_through_names_the_mistake(says, answer, capsys):
    check_straight_through(answer)
    assert says in capsys.readouterr().out


SLOPES = {
    "correct": lambda z, width: (z.abs() < width / 2) / width,
    "one number for each z": lambda z, width: torch.ones(()),
    "0 everywhere": lambda z, width: 0 * z,
    "the window is 2 wide": lambda z, width: (z.abs() < width) / (2 * width),
    "the area is 0.1, not 1": lambda z, width: (z.abs() < width / 2).double(),
}


@pytest.mark.parametrize(("says", "answer"), SLOPES.items(), ids=list(SLOPES))
def test_rectangle_slope_names_the_mistake(says, answer, capsys):
    check_rectangle_slope(answer)
    assert says in capsys.readouterr().out
