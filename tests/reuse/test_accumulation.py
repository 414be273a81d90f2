import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from saetools import SparseAutoencoder, backward_in_parts, frequency_penalty, over_ranks

BOUND = {torch.float32: 1e-6, torch.float64: 1e-12}
SIZES = {1: (41,), 3: (5, 30, 6), 8: (1, 9, 2, 0, 7, 11, 3, 8)}


class Coder(nn.Module):
    """An autoencoder with a layer of one's choice in front of its code."""

    def __init__(self, middle=None):
        super().__init__()
        self.middle = middle or nn.Identity()
        self.encoder, self.decoder = nn.Linear(12, 5), nn.Linear(5, 12)

    def forward(self, x):
        z = self.encoder(self.middle(x))
        return self.decoder(z.relu()), z


def loss_of(model):
    def loss(x, batch_mean):
        reconstruction, z = model(x)
        error = batch_mean(mse_loss(reconstruction, x), len(x))
        return error + frequency_penalty(z, rho=0.2, batch_mean=batch_mean)

    return loss


def in_one_piece(model, parts):
    """The loss of all parts joined, with its gradients: one forward pass of each part."""
    outputs = [model(part) for part in parts]
    reconstruction, z = (torch.cat(column) for column in zip(*outputs, strict=True))
    cost = mse_loss(reconstruction, torch.cat(parts)) + frequency_penalty(z, rho=0.2)
    cost.backward()
    return cost.detach()


def gradients(model):
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize(
    "middle",
    [nn.Identity(), nn.Dropout(0.4), nn.BatchNorm1d(12).eval(), nn.Sequential(nn.Dropout1d(0.3))],
    ids=["plain", "dropout", "BatchNorm in eval", "Dropout1d"],
)
def test_parameters_after_some_steps_are_those_of_one_big_batch(middle, count, dtype):
    ours = Coder(copy.deepcopy(middle)).to(dtype)
    other = copy.deepcopy(ours)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.02) for model in (ours, other)]
    for step in range(4):
        parts = (1.5 * torch.randn(41, 12, dtype=dtype)).split(SIZES[count])
        for optimizer in optimizers:
            optimizer.zero_grad()
        torch.manual_seed(step)
        cost = backward_in_parts(ours, parts, loss_of(ours))
        after = torch.get_rng_state()
        torch.manual_seed(step)
        expected = in_one_piece(other, parts)
        assert torch.equal(after, torch.get_rng_state())
        torch.testing.assert_close(cost, expected, rtol=0, atol=BOUND[dtype])
        torch.testing.assert_close(gradients(ours), gradients(other), rtol=0, atol=BOUND[dtype])
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(
        ours.state_dict(), other.state_dict(), rtol=0, atol=BOUND[dtype], check_stride=False
    )


def test_a_penalty_for_each_part_is_another_one():
    model, parts = Coder(), torch.randn(41, 12).split(SIZES[3])
    in_one_piece(model, parts)
    expected = [grad.clone() for grad in gradients(model)]
    model.zero_grad()
    for part in parts:
        (len(part) / 41 * loss_of(model)(part, over_ranks)).backward()
    assert max((a - b).abs().max() for a, b in zip(gradients(model), expected, strict=True)) > 1e-2


@pytest.mark.parametrize(
    "middle",
    [
        nn.BatchNorm1d(12),
        nn.Sequential(nn.BatchNorm1d(12), nn.Dropout(0.4)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(12, 12)),
    ],
    ids=["BatchNorm", "BatchNorm and dropout", "spectral norm"],
)
def test_buffers_are_updated_by_one_pass_and_not_by_two(middle):
    ours = Coder(copy.deepcopy(middle))
    other = copy.deepcopy(ours)
    parts = torch.randn(30, 12).split(10)
    torch.manual_seed(1)
    names = {name: id(buffer) for name, buffer in ours.named_buffers()}
    backward_in_parts(ours, parts, loss_of(ours))
    assert {name: id(buffer) for name, buffer in ours.named_buffers()} == names
    torch.manual_seed(1)
    in_one_piece(other, parts)
    torch.testing.assert_close(dict(ours.named_buffers()), dict(other.named_buffers()))
    torch.testing.assert_close(gradients(ours), gradients(other))


def test_gradients_are_added_to_those_that_are_there():
    model, parts = Coder(), torch.randn(20, 12).split(7)
    backward_in_parts(model, parts, loss_of(model))
    once = [grad.clone() for grad in gradients(model)]
    backward_in_parts(model, parts, loss_of(model))
    torch.testing.assert_close(gradients(model), [2 * grad for grad in once])


def test_several_layers_and_terms_without_rows_each_get_their_own_batch_mean():
    model, parts = SparseAutoencoder((12, 8, 4), seed=0).double(), torch.rand(30, 12).double()

    def loss(x, batch_mean):
        hidden = model.encoder[0](x)
        code = model.encoder[1](hidden.relu())
        decay = sum(parameter.square().sum() for parameter in model.parameters())
        return (
            frequency_penalty(hidden, rho=0.3, batch_mean=batch_mean)
            + frequency_penalty(code, rho=0.1, batch_mean=batch_mean)
            + batch_mean(decay, len(x))
        )

    cost = backward_in_parts(model, parts.split((4, 20, 6)), loss)
    found = [p.grad.clone() for p in model.encoder.parameters()]
    model.zero_grad()
    expected = loss(parts, over_ranks)
    expected.backward()
    torch.testing.assert_close(cost, expected.detach())
    torch.testing.assert_close(found, [p.grad for p in model.encoder.parameters()])


def test_inside_autocast_the_weights_still_get_their_gradient():
    model, parts = Coder(), torch.randn(24, 12).split(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        backward_in_parts(model, parts, loss_of(model))
        found = [grad.clone() for grad in gradients(model)]
        model.zero_grad()
        in_one_piece(model, parts)
    torch.testing.assert_close(found, gradients(model), rtol=0.05, atol=0.01)


def test_backward_is_what_is_asked_for():
    model, parts = Coder(), torch.randn(24, 12).split(8)
    backward_in_parts(model, parts, loss_of(model))
    plain = [grad.clone() for grad in gradients(model)]
    model.zero_grad()
    backward_in_parts(model, parts, loss_of(model), backward=lambda cost: (8 * cost).backward())
    torch.testing.assert_close(gradients(model), [8 * grad for grad in plain])


def test_a_failing_loss_leaves_the_buffers_and_the_random_state():
    model = Coder(nn.Sequential(nn.BatchNorm1d(12), nn.Dropout()))
    x = torch.randn(4, 12)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()

    def loss(part, batch_mean):
        batch_mean(model(part)[0].mean(), len(part))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        backward_in_parts(model, [x], loss)
    torch.testing.assert_close(model.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_right_is_refused():
    model, x = Coder(), torch.randn(4, 12)
    with pytest.raises(ValueError, match="parts must hold at least one part"):
        backward_in_parts(model, [], loss_of(model))
    with pytest.raises(RuntimeError, match=r"must call batch_mean, .* got \[0, 0\] calls"):
        backward_in_parts(model, [x, x], lambda part, batch_mean: model(part)[0].mean())

    def uneven(part, batch_mean):
        return sum(batch_mean(model(part)[0].mean(), len(part)) for _ in range(len(part)))

    with pytest.raises(RuntimeError, match=r"as often for each part, got \[1, 3\] calls"):
        backward_in_parts(model, x.split((1, 3)), uneven)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_dropout_draws_the_same_masks_on_cuda():
    ours = Coder(nn.Dropout(0.4)).cuda()
    other = copy.deepcopy(ours)
    parts = torch.randn(41, 12, device="cuda").split(SIZES[3])
    torch.manual_seed(1)
    backward_in_parts(ours, parts, loss_of(ours))
    after = torch.cuda.get_rng_state()
    torch.manual_seed(1)
    in_one_piece(other, parts)
    assert torch.equal(after, torch.cuda.get_rng_state())
    torch.testing.assert_close(gradients(ours), gradients(other), rtol=0, atol=1e-5)
