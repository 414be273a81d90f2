"""Train a sparse autoencoder on several processes, in an ordinary loop.

torchrun --standalone --nproc-per-node 2 docs/train_ddp.py [EPOCHS]

Each batch is cut over the processes, the last and smaller one as well. On CPUs they talk by gloo,
on GPUs by nccl, one GPU per process. Started with plain `python` it is the same training on one.
docs/distributed.md says how to run it on several machines.
"""

import os
import sys

import torch
import torch.distributed as dist
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

from saetools import (
    FrequencyMeter,
    SparseAutoencoder,
    chicago_context,
    frequency_penalty,
    initialise_for_frequency_,
    over_ranks,
)

RHO = 0.2
BATCH = 128  # rows of all processes together


def main(epochs: int) -> None:
    """Train, and let the first process print how often each unit fires."""
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    rank, ranks = 0, 1
    if "RANK" in os.environ:  # torchrun has started this
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        rank, ranks = dist.get_rank(), dist.get_world_size()

    x = chicago_context().train
    autoencoder = SparseAutoencoder(seed=0)
    initialise_for_frequency_(autoencoder, x, rho=RHO)
    model: torch.nn.Module = autoencoder.to(device)
    if dist.is_initialized():
        model = DistributedDataParallel(model)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, total_iters=epochs)

    for epoch in range(epochs):
        # The same order on every process, from a seed: this takes the place of a sampler.
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
        for batch in order.split(BATCH):
            part = x[batch.tensor_split(ranks)[rank]].to(device)
            output = model(part)
            error = over_ranks(mse_loss(output.reconstruction, part), len(part))
            penalty = frequency_penalty(output.pre_activations, rho=RHO, batch_mean=over_ranks)
            adam.zero_grad()
            (error + penalty).backward()
            adam.step()
        schedule.step()

    meter = FrequencyMeter()
    with torch.no_grad():
        meter.update(autoencoder.encode(x.tensor_split(ranks)[rank].to(device)))
    everywhere = meter.over_ranks()
    if rank == 0:
        units = " ".join(f"{share:.4f}" for share in everywhere.compute().tolist())
        print(f"{ranks} processes, {everywhere.rows} rows, frequencies {units}")
    if dist.is_initialized():
        dist.barrier()  # Python must not end while gloo's threads hold the last exchange
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 28)
