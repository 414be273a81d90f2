"""What the checks of all notebooks share."""

import pytest
import torch

from saetools.tutorial.exercises.feedback import (
    exercise,
    gradient,
    is_close,
    known_mistake,
    no_number,
    one_number,
    wrong_shape,
)


def not_answered():
    raise NotImplementedError


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda: None, "Exercise 7: correct.\n"),
        (lambda: "the sign.", "Exercise 7: the sign.\n"),
        (not_answered, "Exercise 7: not answered yet.\n"),
        (
            lambda: torch.tensor([True]).mean(),
            "Exercise 7: booleans have no mean: turn them into floats first.\n",
        ),
    ],
)
def test_a_check_prints_what_it_finds(capsys, answer, says):
    @exercise(7)
    def check(answer):
        """What is asked."""
        return answer()

    assert check(answer) is None
    assert capsys.readouterr().out == says
    assert check.__doc__ == "What is asked."


def test_an_error_in_an_answer_is_its_readers_to_see():
    with pytest.raises(RuntimeError, match="must match the size"):
        exercise(1)(lambda: torch.ones(2) + torch.ones(3))()


def test_the_first_known_mistake_is_named():
    known = {"half": torch.tensor([0.5, 1.0]), "also half": torch.tensor([0.5, 1.0]), "zero": 0.0}
    assert known_mistake(torch.tensor([0.5, 1.0], requires_grad=True), known) == "half"
    assert known_mistake(torch.zeros(2, dtype=torch.float64), known) == "zero"
    assert known_mistake(7, known) is None
    assert known_mistake(torch.nan, {"nothing": torch.nan}) is None


@pytest.mark.parametrize(
    "value", [0.1, torch.tensor([[0.1]]).double(), torch.tensor(0.1, requires_grad=True)]
)
def test_one_number_is_read_from_what_holds_one(value):
    assert one_number(value) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("value", "what"),
    [(None, "NoneType"), ([0.1], "list"), ("one", "str"), (torch.zeros(2, 1), "shape (2, 1)")],
)
def test_what_is_no_number_is_told(value, what):
    assert one_number(value) is None
    assert no_number(value) == what


def test_shapes_and_types_are_told():
    assert wrong_shape(torch.zeros(3), (3,), "one per unit") is None
    says = "expected one per unit, a tensor of shape (3,), got "
    assert wrong_shape(torch.zeros(2, 3), (3,), "one per unit") == says + "shape (2, 3)."
    assert wrong_shape([0, 0, 0], (3,), "one per unit") == says + "list."


def test_a_gradient_is_zero_where_no_path_leads():
    x, y = (torch.ones(2, requires_grad=True) for _ in range(2))
    assert gradient(x**2, x).tolist() == [2, 2]
    assert gradient(x**2, y).tolist() == [0, 0]
    assert is_close(gradient(x.sum(), x), 1)
