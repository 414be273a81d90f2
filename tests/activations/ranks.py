"""What the processes of test_whole_batches.py run."""

import torch
import torch.distributed as dist
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

from saetools import FrequencyThreshold, SparseAutoencoder, backward_in_parts, over_ranks

SHARDS = (29, 12)


def batches():
    return torch.rand(4, sum(SHARDS), 20, generator=torch.Generator().manual_seed(5))


def model(batch_mean=None):
    rho = torch.tensor([0.1, 0.2, 0.3, 0.4])
    threshold = FrequencyThreshold(4, rho, batch_mean=batch_mean)
    found = SparseAutoencoder((20, 4), seed=0, activation=threshold)
    threshold.start(found.encode(batches()[0]))
    return found


def loss(wrapped):
    def of_part(part, batch_mean):
        return batch_mean(mse_loss(wrapped(part).reconstruction, part), len(part))

    return of_part


def trained(own, wrapped, parts_of, whole_batch=False):
    """The state after four batches, each given as its parts."""
    adam = torch.optim.SGD(wrapped.parameters(), 0.5)
    for batch in batches():
        adam.zero_grad()
        if whole_batch:
            with own.activation.whole_batch():
                backward_in_parts(wrapped, parts_of(batch), loss(wrapped))
        else:
            backward_in_parts(wrapped, parts_of(batch), loss(wrapped))
        adam.step()
    return {name: value.clone() for name, value in own.state_dict().items()}


def process(rank, folder):
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    found = {}
    for name, some, copied in (("whole", 99, False), ("parts", 5, False), ("copied", 5, True)):
        own = model(over_ranks)

        def parts_of(batch, some=some):
            return batch.split(SHARDS)[rank].split(some)

        # Without copies of the first process's buffers what they agree on is their own doing.
        wrapped = DistributedDataParallel(own, broadcast_buffers=copied)
        found[name] = trained(own, wrapped, parts_of, whole_batch=True)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
