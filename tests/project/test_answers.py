"""Each answer in docs/answers fits a screen, and its code does what the answer says."""

import re

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from notebook_tools import NOTEBOOKS, ROOT
from torch import nn

from saetools import (
    frequency_penalty,
    restart_rows_,
    straight_through_gate,
    top_k_margins,
    usage_perplexity,
)

ANSWERS = {path.stem: path for path in (ROOT / "docs" / "answers").glob("[!R]*.md")}


def names(answer):
    """What the answer's code defines; torch alone is imported."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", ANSWERS[answer].read_text("utf-8"), re.S))
    assert "saetools" not in code
    scope = {}
    exec(code, scope)
    return scope


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()


def slopes(at, *values):
    return [torch.autograd.grad(value, at)[0] for value in values]


def test_each_is_listed_and_fits_a_screen():
    page = (ROOT / "docs" / "answers" / "README.md").read_text("utf-8")
    assert set(re.findall(r"\((\w+)\.md\)", page)) == set(ANSWERS)
    for path in ANSWERS.values():
        text = path.read_text("utf-8")
        assert len(text.splitlines()) <= 45, path.name
        assert max(map(len, re.findall(r"```python\n(.*?)```", text, re.S)[0].splitlines())) <= 100
    [notebook] = re.findall(r"notebooks/(.*?\.ipynb)", page)
    assert notebook in [path.name for path in NOTEBOOKS]


def test_spikes_is_the_packages_penalty():
    above = drawn(10, 200, 5)
    mine = names("spikes")["rate_penalty"](above, 0.1)
    theirs = frequency_penalty(above, rho=0.1)
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(*slopes(above, mine, theirs), rtol=1e-2, atol=1e-6)


def test_experts_that_are_even_have_a_loss_of_1_and_a_busy_one_is_pushed_down():
    load_balance = names("experts")["load_balance"]
    even = torch.eye(4).repeat(25, 1) + torch.eye(4).roll(1, 0).repeat(25, 1)
    assert load_balance(even, 2).item() == pytest.approx(1, abs=1e-6)
    uneven = (drawn(100, 4).detach() + torch.tensor([2.0, 0.0, 0.0, 0.0])).requires_grad_()
    loss = load_balance(uneven, 2)
    assert loss > 1.05
    [slope] = slopes(uneven, loss)
    assert slope[:, 0].sum() > 0


def test_experts_with_shares_is_the_margin_of_the_package():
    logits, shares = drawn(500, 4), torch.tensor([0.8, 0.6, 0.4, 0.2])
    mine = names("experts")["share_penalty"](logits, 2, shares)
    margins = top_k_margins(logits, 2)
    wide = 0.3 * margins.std().item()
    theirs = frequency_penalty(margins, rho=shares, temperature=wide)
    torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-4)
    torch.testing.assert_close(*slopes(logits, mine, theirs), rtol=2e-2, atol=1e-6)


def test_gates_are_those_of_the_package_and_the_share_is_pulled_to_what_is_kept():
    given = names("gates")
    scores = drawn(40)
    mine, theirs = given["gate"](scores), straight_through_gate(scores, 0.3)
    assert torch.equal(mine, theirs)
    torch.testing.assert_close(*slopes(scores, mine.sum(), theirs.sum()))
    assert given["largest"](scores, 10).sum() == 10
    adam = torch.optim.Adam([scores], lr=0.02)
    for _ in range(150):
        adam.zero_grad()
        given["keep_penalty"](scores, 0.25).backward()
        adam.step()
    assert abs(int((scores > 0).sum()) - 10) <= 1


def test_codes_restart_as_in_the_package_and_perplexity_is_its_own():
    given = names("codes")
    rows, dead = torch.rand(200, 3), torch.tensor([True, False, True, False])
    books = [nn.Parameter(torch.ones(4, 3)) for _ in range(2)]
    adams = [torch.optim.Adam([book], lr=0.1) for book in books]
    for book, adam in zip(books, adams, strict=True):
        book.square().sum().backward()
        adam.step()
    torch.manual_seed(5)
    given["restart"](books[0], dead, rows, adams[0])
    restart_rows_(books[1], dead, books[0][dead], adams[1])
    assert torch.equal(*books)
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(*(a.state[b][key] for a, b in zip(adams, books, strict=True)))
    indices = torch.randint(0, 5, (100,))
    share = F.one_hot(indices, 7).float().mean(0)
    torch.testing.assert_close(given["perplexity"](indices, 7), usage_perplexity(share))
    given["start"](books[0], rows)
    assert all((rows == code).all(1).any() for code in books[0])


def test_metrics_are_the_metric_and_have_a_slope():
    given = names("metrics")
    logits, truth = drawn(300), (torch.arange(300) % 3 == 0).float()
    called = (logits > 0).float()
    f1 = 2 * (called * truth).sum() / (called.sum() + truth.sum())
    torch.testing.assert_close(1 - given["hard_dice_loss"](logits, truth), f1)
    for loss in (given["hard_dice_loss"], given["soft_dice_loss"]):
        [slope] = slopes(logits, loss(logits, truth))
        assert (slope[truth > 0] < 0).all()
        assert (slope[truth == 0] > 0).all()
    union = called.sum() + truth.sum() - (called * truth).sum()
    torch.testing.assert_close((called * truth).sum() / union, f1 / (2 - f1))
