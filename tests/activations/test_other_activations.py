"""Each against the definition in its paper, written out with loops."""

import pytest
import torch

from saetools import BatchTopK, GroupBiasAdaptation, JumpReLU, TopK, WinnerTakeAll

Z = torch.randn(40, 9, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("k", [1, 3, 9])
def test_top_k_keeps_the_k_largest_of_a_row_behind_a_relu(k):
    latents = TopK(k)(Z)
    for row, kept in zip(Z.tolist(), latents.tolist(), strict=True):
        largest = sorted(range(9), key=lambda j, row=row: -row[j])[:k]
        assert kept == [max(z, 0.0) if j in largest else 0.0 for j, z in enumerate(row)]
    z = Z.clone().requires_grad_()
    TopK(k)(z).sum().backward()
    assert torch.equal(z.grad, (latents > 0).float())
    assert torch.equal(TopK(k)(Z.view(2, 20, 9)), latents.view(2, 20, 9))


def test_top_k_of_too_few_latents():
    with pytest.raises(ValueError, match=r"at least k = 3 latents, got shape \(5, 2\)"):
        TopK(3)(torch.randn(5, 2))


@pytest.mark.parametrize("k", [1, 2.5, 9])
def test_batch_top_k_keeps_the_largest_of_the_batch(k):
    activation = BatchTopK(k)
    latents = activation(Z)
    order = sorted(Z.flatten().tolist(), reverse=True)[: round(k * 40)]
    smallest = min(z for z in order if z > 0)
    assert torch.equal(latents, Z.where(smallest <= Z, 0))
    assert int((latents > 0).sum()) == sum(z > 0 for z in order)
    assert activation.threshold.item() == pytest.approx(smallest)


def test_batch_top_k_has_the_mean_smallest_kept_as_its_threshold():
    activation, expected = BatchTopK(2), None
    for factor in (1.0, 3.0, 2.0):
        kept = (factor * Z).flatten().topk(80).values.min()
        expected = kept if expected is None else expected + 0.01 * (kept - expected)
        activation(factor * Z)
    assert torch.allclose(activation.threshold, expected)
    activation.eval()
    assert torch.equal(activation(Z), Z.where(expected < Z, 0))
    assert torch.equal(activation(Z[:1]), Z[:1].where(Z[:1] > expected, 0))  # of one row as well
    activation(torch.full((5, 9), -1.0))
    assert torch.allclose(activation.threshold, expected)


def test_batch_top_k_without_a_batch():
    activation = BatchTopK(2)
    with pytest.raises(RuntimeError, match="must have seen a batch"):
        activation.eval()(Z)
    latents = activation.train()(-Z.abs())  # none is above 0
    assert latents.count_nonzero() == 0
    assert activation.threshold.isnan().all()


def test_jump_relu_has_the_papers_value_and_slopes():
    theta, bandwidth = 0.6, 0.5
    jump = JumpReLU(9, threshold=theta, bandwidth=bandwidth).double()
    z, weight = Z.double().requires_grad_(), torch.randn(40, 9).double()
    latents = jump(z)
    assert torch.equal(latents, z.where(z > theta, 0))
    (latents * weight).sum().backward()
    assert torch.equal(z.grad, weight * (z > theta))
    kernel = (((z - theta) / bandwidth).abs() < 0.5).double()
    by_theta = -(theta / bandwidth * kernel * weight).sum(0)
    assert torch.allclose(jump.log_threshold.grad, by_theta.detach() * theta)  # d theta = theta


def test_the_target_l0_has_the_papers_value_and_slope():
    theta, bandwidth, target = 0.6, 0.5, 1.5
    jump = JumpReLU(9, threshold=theta, bandwidth=bandwidth).double()
    z = Z.double().requires_grad_()
    penalty = jump.l0_penalty(z, target)
    found = (z > theta).double().sum(-1).mean()
    assert penalty.item() == pytest.approx((found.item() / target - 1) ** 2)
    penalty.backward()
    assert z.grad is None
    kernel = (((z - theta) / bandwidth).abs() < 0.5).double()
    slope = 2 * (found / target - 1) / target * -(kernel / bandwidth).mean(0)
    assert torch.allclose(jump.log_threshold.grad, slope.detach() * theta)


def test_jump_relu_keeps_the_dtype_and_penalises_members_apart():
    jump = JumpReLU(9, threshold=0.6, bandwidth=0.5)
    assert jump(Z.bfloat16()).dtype == torch.bfloat16
    jump.log_threshold = torch.nn.Parameter(jump.log_threshold.detach().expand(2, 9).clone())
    both = jump.l0_penalty(Z.view(2, 20, 9), 2.0)
    single = JumpReLU(9, threshold=0.6, bandwidth=0.5)
    alone = [single.l0_penalty(part, 2.0) for part in Z.view(2, 20, 9)]
    assert torch.allclose(both, torch.stack(alone))


@pytest.mark.parametrize("rho", [0.1, 0.5, torch.linspace(0.03, 0.6, 9)])
def test_winner_take_all_keeps_each_latents_largest_rows(rho):
    latents = WinnerTakeAll(9, rho)(Z)
    for j in range(9):
        winners = max(1, round(float(torch.as_tensor(rho).expand(9)[j]) * 40))  # m_j
        rows = sorted(range(40), key=lambda i, j=j: -Z[i, j])[:winners]
        assert latents[:, j].nonzero().flatten().tolist() == sorted(rows)
        assert torch.equal(latents[rows, j], Z[rows, j])
    z = Z.clone().requires_grad_()
    WinnerTakeAll(9, rho)(z).sum().backward()
    assert torch.equal(z.grad, (latents != 0).float())
    assert torch.equal(WinnerTakeAll(9, rho)(Z.view(2, 20, 9)), latents.view(2, 20, 9))


def adapted(bias, batches, rho, *, rate):
    """The biases after a buffer of batches, latent by latent."""
    buffer = (torch.cat(batches) + bias).double()
    p = [(column > 0).double().mean().item() for column in buffer.T]
    r = [max(column.max().item(), 0.0) for column in buffer.T]
    new = bias.tolist()
    for m, target in enumerate(rho.tolist()):
        group = [r[j] for j in range(len(r)) if rho[j] == target and r[j] > 0]
        if p[m] > target:
            new[m] = max(new[m] - rate * r[m], -1.0)
        elif p[m] < 1e-6:
            new[m] = min(new[m] + rate * (sum(group) / len(group) if group else 0.0), 0.0)
    return torch.tensor(new)


def test_group_bias_adaptation_moves_by_the_papers_rule():
    rho = torch.tensor([0.3, 0.3, 0.3, 0.3, 0.05, 0.05, 0.05, 0.02, 0.02])
    activation = GroupBiasAdaptation(9, rho, rate=0.2, every=2)
    shift = torch.tensor([0.0, 0, 9, -9, 0, -9, 0, -9, -9])
    bias = torch.tensor([0.0, -0.5, -0.9, -0.3, 0, -0.01, -0.2, -0.4, 0])
    activation.bias.copy_(bias)
    for step in range(3):
        batches = [Z[:25] + shift + step, Z[25:] + shift]
        for part in batches:
            before = activation.bias.clone()
            activation(part)
        assert torch.equal(before, bias)  # only the second batch moves
        moved = adapted(bias, batches, rho, rate=0.2)
        assert torch.allclose(activation.bias, moved, atol=1e-6)
        assert not torch.equal(moved, bias)
        bias = activation.bias.clone()
    assert activation.bias.min() >= -1
    assert activation.bias.max() <= 0
    assert torch.equal(activation.eval()(Z), (Z + bias).relu())
    assert torch.equal(activation.bias, bias)


def test_no_gradient_reaches_a_bias():
    activation, z = GroupBiasAdaptation(9, 0.1), Z.clone().requires_grad_()
    activation(z).sum().backward()
    assert torch.equal(z.grad, (Z > 0).float())
    assert list(activation.parameters()) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopK(0), "k must be at least 1, got 0"),
        (lambda: BatchTopK(0), "k must be finite and greater than 0, got 0"),
        (lambda: JumpReLU(3, threshold=0), "threshold must be finite and greater than 0"),
        (lambda: JumpReLU(3, bandwidth=-1), "bandwidth must be finite and greater than 0"),
        (lambda: JumpReLU(3).l0_penalty(Z, 2.0), "pre_activations must have 3 latents"),
        (lambda: WinnerTakeAll(3, 1.0), "rho must lie strictly between 0 and 1"),
        (lambda: GroupBiasAdaptation(3, 0.1, rate=0), "rate must be finite and greater than 0"),
        (lambda: GroupBiasAdaptation(3, 0.1, every=0), "every must be at least 1"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
