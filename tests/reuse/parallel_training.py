"""What the processes of test_distributed.py run, and the same training in one piece, to compare."""

import warnings
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

from saetools import (
    FrequencyMeter,
    FrequencyMultipliers,
    Output,
    RunningFrequency,
    SparseAutoencoder,
    backward_in_parts,
    frequency_penalty,
    initialise_for_frequency_,
    over_ranks,
)

STEPS = 4
ROWS = 48


class Case(NamedTuple):
    """One way to cut a batch, and to bring the gradients together."""

    shards: tuple[int, ...]  # rows of each process
    parts: tuple[int, ...] | None  # micro-batches of each process, None for no accumulation
    dtype: torch.dtype = torch.float64
    adam: bool = False
    wrapped: bool = True  # by DistributedDataParallel, or gradients averaged by hand
    naive: bool = False  # each part's own penalty and error


def cases(ranks):
    """All that `ranks` processes are to agree on with one."""
    equal = (ROWS // ranks,) * ranks
    uneven = {2: (29, 12), 4: (17, 0, 23, 1)}[ranks]
    some = {2: (3, 1), 4: (1, 3, 8, 2)}[ranks]  # micro-batches
    single = torch.float32
    return {
        "equal, float32": Case(equal, None, single),
        "uneven, float32": Case(uneven, None, single),
        "uneven in parts, float32": Case(uneven, some, single),
        "equal in parts": Case(equal, some),
        "uneven": Case(uneven, None),
        "uneven in parts": Case(uneven, some),
        "uneven in 8 parts each": Case(uneven, (8,) * ranks),
        "Adam in parts": Case(uneven, some, adam=True),
        "by hand": Case(uneven, None, wrapped=False),
        "by hand in parts": Case(uneven, some, wrapped=False),
    }


def naive_cases(ranks):
    """What must not agree: each process or part with a penalty and an error of its own."""
    return {
        "naive": Case((ROWS // ranks,) * ranks, None, naive=True),
        "naive in parts": Case((ROWS // ranks,) * ranks, (3,) * ranks, naive=True),
    }


def setting(case):
    """A model that starts at rho, its optimizer, and the batches, one for each step."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(STEPS, sum(case.shards), 20, generator=generator, dtype=torch.float64)
    x = x * torch.linspace(0.5, 1.5, x.shape[1], dtype=torch.float64)[:, None]  # unlike shards
    model = SparseAutoencoder((20, 12, 6), torch.nn.Identity(), seed=0).double()
    initialise_for_frequency_(model, x.flatten(0, 1), rho=0.3)
    model = model.to(case.dtype)
    make = torch.optim.Adam if case.adam else torch.optim.SGD
    return model, make(model.parameters(), lr=1e-3 if case.adam else 0.02), x.to(case.dtype)


def in_one_piece(case):
    """Gradients of each step and parameters at the end, without anything that is tested."""
    model, optimizer, batches = setting(case)
    found = []
    for x in batches:
        output = model(x)
        loss = mse_loss(output.reconstruction, x) + frequency_penalty(
            output.pre_activations, rho=0.2
        )
        optimizer.zero_grad()
        loss.backward()
        found.append(loss.detach().clone())
        found += [parameter.grad.clone() for parameter in model.parameters()]
        optimizer.step()
    return found + [parameter.detach().clone() for parameter in model.parameters()]


def uneven_parts(x, count):
    """`count` micro-batches whose sizes are 1 : 2 : 3 and so on; some may be empty."""
    ends = [len(x) * k * (k + 1) // (count * (count + 1)) for k in range(1, count)]
    return x.tensor_split(ends)


def in_parts(case, rank):
    """The same training, cut as the case says."""
    plain, optimizer, batches = setting(case)
    wrapped = case.wrapped and dist.is_initialized()
    model = DistributedDataParallel(plain) if wrapped else plain

    def loss(x, batch_mean):
        output = model(x)
        if case.naive:
            error = mse_loss(output.reconstruction, x)
            return error + frequency_penalty(output.pre_activations, rho=0.2)
        error = batch_mean(mse_loss(output.reconstruction, x), len(x))
        return error + frequency_penalty(output.pre_activations, rho=0.2, batch_mean=batch_mean)

    found = []
    for batch in batches:
        x = batch.split(case.shards)[rank]
        optimizer.zero_grad()
        if case.parts is None:
            cost = loss(x, over_ranks)
            cost.backward()
        elif case.naive:
            parts = x.chunk(case.parts[rank])
            for part in parts:
                cost = loss(part, None) / len(parts)
                cost.backward()
        else:
            cost = backward_in_parts(model, uneven_parts(x, case.parts[rank]), loss)
        if not wrapped and dist.is_initialized():
            for parameter in plain.parameters():
                dist.all_reduce(parameter.grad)
                parameter.grad /= len(case.shards)
        found.append(cost.detach().clone())
        found += [parameter.grad.clone() for parameter in plain.parameters()]
        optimizer.step()
    return found + [parameter.detach().clone() for parameter in plain.parameters()]


def meter_rows(rank):
    """What process `rank` counts: the second has nothing."""
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(0 if rank == 1 else 5 + rank, 3, generator=generator)


def running_steps(ranks):
    """Three batches of frequencies, and their rows, for each process: (3, ranks, 2), (3, ranks)."""
    generator = torch.Generator().manual_seed(2)
    rho_hat = torch.rand(3, ranks, 2, generator=generator, dtype=torch.float64)
    return rho_hat, torch.arange(3 * ranks).reshape(3, ranks)


def multiplied(shares, batch_mean=None):
    """Costs, slopes and last multipliers of three batches, of which each share is one process's."""
    constraint = FrequencyMultipliers(rho=0.2, rate=0.5, batch_mean=batch_mean)
    costs, slopes = [], []
    for z in shares:
        z = z.clone().requires_grad_()
        costs.append(constraint(Output(z, z.relu(), z)))
        slopes.append(torch.autograd.grad(costs[-1], z)[0])
    return torch.stack(costs).detach(), torch.cat(slopes), constraint.multipliers


def three_batches(shards):
    """Pre-activations of three batches, each cut into the shards: (3, rows, 2)."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(3, sum(shards), 2, generator=generator, dtype=torch.float64)


def other_facts(rank, ranks):
    """What else is to hold on several processes, one name each."""
    facts = {}
    meter = FrequencyMeter()
    if len(rows := meter_rows(rank)):
        meter.update(rows)
    merged = meter.over_ranks()
    facts["meter"] = (merged.active, merged.rows, meter.rows)

    running = RunningFrequency(decay=0.9)
    values, slopes = [], []
    for rho_hat, rows in zip(*running_steps(ranks), strict=True):
        own = rho_hat[rank].requires_grad_()
        values.append(running(own, int(rows[rank])))
        slopes.append(torch.autograd.grad(values[-1].sum(), own)[0])
    facts["running"] = (torch.stack(values).detach(), torch.stack(slopes))

    shards = cases(ranks)["uneven"].shards
    own = [z.split(shards)[rank] for z in three_batches(shards)]
    facts["multipliers"] = multiplied(own, over_ranks)

    facts["no rows at all"] = over_ranks(torch.full((2,), torch.nan), 0)
    facts["half"] = over_ranks(torch.tensor([rank], dtype=torch.float16), 1)

    pair = dist.new_group([0, 1])
    try:
        facts["pair"] = over_ranks(torch.tensor(float(rank)), 1 + rank, group=pair)
    except ValueError as error:
        facts["pair"] = str(error)

    strangers = FrequencyMeter()
    strangers.update(torch.ones(2, 3 + rank))
    try:
        strangers.over_ranks()
    except ValueError as error:
        facts["strangers"] = str(error)

    plain = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.BatchNorm1d(2))
    model = DistributedDataParallel(plain)
    exchanges = []

    def count(_, bucket):
        exchanges.append(bucket)
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    model.register_comm_hook(None, count)
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(rank))
    for _ in range(2):
        # As many parts as the process's number, plus one; BatchNorm's buffers are broadcast.
        backward_in_parts(
            model,
            x.tensor_split(rank + 1),
            lambda part, batch_mean: batch_mean(model(part).mean(), len(part)),
        )
    facts["exchanges"] = len(exchanges)
    facts["BatchNorm's batches"] = plain[1].num_batches_tracked.item()
    if ranks == 2:
        facts["FSDP"] = fully_sharded(rank, ranks)
    return facts


def fully_sharded(rank, ranks):
    """The parameters after the training of `in_one_piece(Case((29, 12), None))` under FSDP."""
    import torch.distributed.fsdp as fsdp  # slow to import

    if not hasattr(fsdp, "fully_shard"):  # before torch 2.6
        return None
    case = Case((29, 12), None)
    plain, _, batches = setting(case)
    model = fsdp.fully_shard(plain, mesh=init_device_mesh("cpu", (ranks,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)

    def loss(x, batch_mean):
        output = model(x)
        error = batch_mean(mse_loss(output.reconstruction, x), len(x))
        return error + frequency_penalty(output.pre_activations, rho=0.2, batch_mean=batch_mean)

    for step, batch in enumerate(batches):
        x = batch.split(case.shards)[rank]
        optimizer.zero_grad()
        if step % 2:
            loss(x, over_ranks).backward()
        else:
            backward_in_parts(model, uneven_parts(x, 3), loss)
        optimizer.step()
    return [parameter.full_tensor().detach() for parameter in model.parameters()]


def process(rank, ranks, folder):
    """One of the processes: everything above, saved for the test to compare."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=(folder / "meeting").as_uri(),
        rank=rank,
        world_size=ranks,
        timeout=timedelta(minutes=3),  # processes that are out of step wait for each other
    )
    every = cases(ranks) | naive_cases(ranks)
    found = {name: in_parts(case, rank) for name, case in every.items()}
    torch.save((found, other_facts(rank, ranks)), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def run(ranks, folder):
    """The results of all processes: for each, of each case, and the other facts."""
    torch.multiprocessing.spawn(process, (ranks, folder), nprocs=ranks)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(ranks)]
