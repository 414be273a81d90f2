"""One move per batch: of micro-batches, of several processes, under checkpointing and compiling."""

import copy

import pytest
import torch
from ranks import SHARDS, model, process, trained
from torch.utils.checkpoint import checkpoint

from saetools import BatchTopK, FrequencyThreshold, GroupBiasAdaptation, over_ranks

Z = torch.randn(60, 5, generator=torch.Generator().manual_seed(1)) + 0.3


def started(**options):
    start = torch.randn(1000, 5, generator=torch.Generator().manual_seed(2))
    return FrequencyThreshold(5, 0.1, **options).start(start)


def assert_alike(one, other, within=1e-6):
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=within, atol=within, msg=name)


@pytest.mark.parametrize("band", [None, 3.0])
def test_parts_of_a_batch_move_as_the_batch_does(band):
    whole, parts = started(band=band), started(band=band)
    whole(Z)
    with parts.whole_batch():
        before = parts.theta.clone()
        for part in Z.split([7, 30, 23]):
            parts(part)
        assert torch.equal(parts.theta, before)
    assert_alike(parts.state_dict(), whole.state_dict())
    assert not torch.equal(parts.theta, before)
    whole(Z)  # and the next batch begins anew
    with parts.whole_batch():
        parts(Z)
    assert_alike(parts.state_dict(), whole.state_dict())


def test_nothing_moves_after_an_error_nor_twice():
    threshold, before = started(), started().state_dict()

    def broken():
        with threshold.whole_batch():
            threshold(Z)
            raise KeyError

    def nested():
        with threshold.whole_batch():
            threshold(Z[:30])
            with threshold.whole_batch():
                pass

    with pytest.raises(KeyError):
        broken()
    assert_alike(threshold.state_dict(), before, 0)
    with pytest.raises(RuntimeError, match="must not stand within"):
        nested()
    fresh = FrequencyThreshold(5, 0.1)
    with pytest.raises(RuntimeError, match="needs thresholds: call start"), fresh.whole_batch():
        pass
    with threshold.whole_batch():
        threshold(Z)
    whole = started()
    whole(Z)
    assert_alike(threshold.state_dict(), whole.state_dict())
    with threshold.whole_batch():
        pass
    assert_alike(threshold.state_dict(), whole.state_dict())


def test_backward_in_parts_within_whole_batch():
    one, other = model(), model()
    cut = trained(one, one, lambda batch: batch.split([17, 3, 21]), whole_batch=True)
    # In one part theta moves first and is then applied, so it is compared within the block, too.
    whole = trained(other, other, lambda batch: [batch], whole_batch=True)
    assert_alike(cut, whole)
    naive = model()
    apart = trained(naive, naive, lambda batch: batch.split([17, 3, 21]))
    assert (apart["activation.theta"] - whole["activation.theta"]).abs().max() > 1e-3


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    torch.multiprocessing.spawn(process, (tmp_path,), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name in ("whole", "parts", "copied"):
        alone = model()
        expected = trained(alone, alone, lambda batch: batch.split(SHARDS), whole_batch=True)
        assert_alike(first[name], expected, 1e-5)
        assert_alike(second[name], first[name], 0)  # not one bit apart


def test_over_ranks_without_processes_changes_nothing():
    alone, pooled = started(), started(batch_mean=over_ranks)
    alone(Z)
    pooled(Z)
    assert_alike(pooled.state_dict(), alone.state_dict())
    assert_alike(started(batch_mean=over_ranks).state_dict(), started().state_dict(), 0)
    mask = torch.arange(60) < 31
    alone(Z, mask)
    pooled(Z, mask)
    assert_alike(pooled.state_dict(), alone.state_dict())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(
    "make", [started, lambda: BatchTopK(2), lambda: GroupBiasAdaptation(5, 0.1, every=1)]
)
def test_checkpointing_counts_a_batch_once(make, reentrant):
    plain, saved = make(), make()
    slopes = []
    for activation in (plain, saved):
        z = (5 * Z).clone().requires_grad_()
        for _ in range(3):
            if activation is saved:
                latents = checkpoint(activation, z, use_reentrant=reentrant)
            else:
                latents = activation(z)
            latents.square().sum().backward()
        slopes.append(z.grad)
    assert_alike(saved.state_dict(), plain.state_dict(), 0)
    assert torch.equal(*slopes)


@pytest.mark.filterwarnings("ignore")  # of torch.compile's own
@pytest.mark.parametrize("make", [started, lambda: started(band=3.0)])
def test_compiled_it_is_one_graph_that_is_not_compiled_again(make):
    plain = make()
    compiled = torch.compile(copy.deepcopy(plain), fullgraph=True, backend="aot_eager")
    for step in range(4):
        z = [torch.randn(64, 5, requires_grad=True)]
        z.append(z[0].detach().clone().requires_grad_())
        with torch._dynamo.config.patch(error_on_recompile=step > 0):
            latents = compiled(z[1])
        assert torch.allclose(latents, plain(z[0]))
        latents.sum().backward()
        assert torch.equal(z[1].grad, (latents != 0).float())
    assert_alike(compiled._orig_mod.state_dict(), plain.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_under_autocast_thresholds_stay_exact(dtype):
    layer, threshold = torch.nn.Linear(8, 5), started(rate=1e-4)
    x, before = torch.randn(512, 8), threshold.theta.clone()
    with torch.autocast("cpu", dtype):
        z = layer(x)
        latents = threshold(z)
    assert z.dtype == latents.dtype == dtype
    assert threshold.theta.dtype == torch.float32
    exact = started(rate=1e-4)
    exact(z.float())
    assert torch.equal(threshold.theta, exact.theta)
    assert not torch.equal(threshold.theta, before)
