"""A step of a one-hidden-layer sparse autoencoder: saetools, by hand, and other libraries.

python benchmarks/one_hidden_layer.py [ROUNDS] [--device cpu|cuda]

Uniform data of 64 and of 512 numbers per row, 1024 and 4096 ReLU units, a linear decoder, batches
of 1024 rows in float32.

- by hand: weights as tensors, F.linear, relu, F.mse_loss, the series' penalty written out, fused
  Adam, and batches gathered beforehand. The frequency comes either from autograd, as
  hard + (soft - soft.detach()) of the rows' means, or from a backward of its own, which saves
  nothing and makes the fewest passes over the code.
- saetools: `train` with `frequency_penalty`, the gathering of the rows included. It is checked
  that its losses and those by hand are the same.
- other libraries: see _peers.py. They are in the extra `peers`; one that cannot be imported is
  left out, and a line says so. Their losses have an L1 penalty, which is fewer operations, so that
  `train` is timed with one as well.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from _peers import PEERS, Run, importable
from _report import arguments, clock, median_ratio, rounds, spread, write_table
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from saetools import Output, SparseAutoencoder, batches, frequency_penalty, train
from saetools.penalties import unbiased_eps

BATCH, RHO, TEMPERATURE, RATE, WARM = 1024, 0.2, 0.3, 1e-3, 2
SIZES = {(64, 1024): 30, (512, 4096): 4}  # and the steps of a round


def penalty(output: Output) -> Tensor:
    """The series' penalty on every unit being active in one row of five."""
    return frequency_penalty(output.pre_activations, rho=RHO)


def l1(output: Output) -> Tensor:
    """What the other libraries have, an L1 penalty: latents are never negative."""
    return 1e-3 * output.latents.mean((-2, -1))


def autoencoder(sizes: tuple[int, int], device: torch.device) -> SparseAutoencoder:
    """One hidden layer, a linear output."""
    return SparseAutoencoder(sizes, output=nn.Identity(), seed=0).to(device)


def by_autograd(z: Tensor) -> Tensor:
    """The straight-through frequency, its slope left to autograd."""
    soft = torch.sigmoid(z / TEMPERATURE).mean(0)
    return (z > 0).float().mean(0) + (soft - soft.detach())


class OwnBackward(torch.autograd.Function):
    """The straight-through frequency, its slope computed in place when it is asked for."""

    @staticmethod
    def forward(context: Any, z: Tensor) -> Tensor:
        """The hard count."""
        context.save_for_backward(z)
        return (z > 0).to(z.dtype).mean(0)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        """The slope of the soft one."""
        (z,) = context.saved_tensors
        soft = (z * (1 / TEMPERATURE)).sigmoid_()
        share = (gradient / (TEMPERATURE * len(z))).expand_as(z)
        slope: Tensor = torch.ops.aten.sigmoid_backward(share, soft)
        return slope


def by_hand(
    sizes: tuple[int, int], device: torch.device, frequency: Callable[[Tensor], Tensor]
) -> Callable[[Iterable[Tensor]], Tensor]:
    """Training in plain torch, from the weights that `autoencoder` starts with."""
    start = autoencoder(sizes, device).parameters()
    weights = [weight.detach().clone().requires_grad_() for weight in start]
    encode, encode_bias, decode, decode_bias = weights
    adam = torch.optim.Adam(weights, lr=RATE, fused=True)

    def run(stream: Iterable[Tensor]) -> Tensor:
        losses = []
        for x in stream:
            z = F.linear(x, encode, encode_bias)
            x_hat = F.linear(z.relu(), decode, decode_bias)
            eps = unbiased_eps(RHO, len(z))
            f = eps + (1 - 2 * eps) * frequency(z)
            kl = RHO * torch.log(RHO / f) + (1 - RHO) * torch.log((1 - RHO) / (1 - f))
            loss = F.mse_loss(x_hat, x) + kl.sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    return run


HANDS = {
    "by hand, own backward": OwnBackward.apply,
    "by hand, autograd": by_autograd,
}


def seconds(run: Run, data: Sequence[Tensor], steps: int) -> float:
    """Seconds per step of `run`, after WARM steps that are not counted."""
    moments: list[float] = []

    def stream() -> Iterator[Tensor]:
        for step in range(WARM + steps):
            if step == WARM:
                moments.append(clock(data[0].device))
            yield data[step % len(data)]
        moments.append(clock(data[0].device))  # asked for after the last step

    run(stream())
    return (moments[1] - moments[0]) / steps


def ours(
    model: SparseAutoencoder, x: Tensor, added: Callable[[Output], Tensor], steps: int
) -> float:
    """Seconds per step of `train`, after WARM steps that are not counted."""
    options: dict[str, Any] = {"batch_size": BATCH, "lr": RATE, "observe_every": 1}
    history = train(
        model, x, added, steps=WARM + steps, observe=lambda _: clock(x.device), **options
    )
    moments = [moment for _, moment in history.observations]
    return float(moments[-1] - moments[WARM]) / steps


def check_the_same(sizes: tuple[int, int], x: Tensor, steps: int = 8) -> None:
    """Raise unless `train` and the steps by hand compute the same losses."""
    history = train(
        autoencoder(sizes, x.device), x, penalty, steps=steps, batch_size=BATCH, lr=RATE
    )
    for frequency in HANDS.values():
        losses = by_hand(sizes, x.device, frequency)(islice(batches(x, BATCH, seed=0), steps))
        torch.testing.assert_close(losses.cpu(), history.error + history.penalty, rtol=1e-4, atol=0)


def main(count: int, device: torch.device) -> None:
    """Time every way at both sizes and write the table."""
    found = importable()
    penalties = {"saetools": penalty, "saetools, L1": l1}
    rows = [[name] for name in (*HANDS, *penalties, *found)]
    for sizes, steps in SIZES.items():
        x = torch.rand(16 * BATCH, sizes[0], generator=torch.Generator().manual_seed(0)).to(device)
        check_the_same(sizes, x)
        data = list(islice(batches(x, BATCH, seed=0), 16))
        runs: dict[str, Run] = {name: by_hand(sizes, device, f) for name, f in HANDS.items()}
        runs.update({name: make(sizes, device, RATE) for name, make in found.items()})
        timed = {name: partial(seconds, run, data, steps) for name, run in runs.items()}
        for name, added in penalties.items():
            timed[name] = partial(ours, autoencoder(sizes, device), x, added, steps)
        taken = rounds(timed, count)
        best = taken[next(iter(HANDS))]
        for row in rows:
            column = taken[row[0]]
            rate = spread([BATCH / s for s in column])
            row += [rate.show(0), median_ratio(column, best).show()]
    left_out = [f"{name} could not be imported." for name in PEERS if name not in found]
    write_table(
        "one_hidden_layer",
        "A step of a one-hidden-layer sparse autoencoder",
        [
            "Samples per second in training, batch 1024, float32, and the time of a step as a "
            "multiple of the first line's. `saetools` and the steps by hand compute the same loss, "
            "with the penalty on frequency; the libraries compute theirs, with L1, as "
            "`saetools, L1` does. The docstrings of the script and of `_peers.py` say what each "
            "runs.",
            f"Median and range over {count} rounds; a ratio is taken within a round.",
            *left_out,
        ],
        ["", *(f"{a}→{b}, {what}" for a, b in SIZES for what in ("samples/s", "time ratio"))],
        rows,
        device=device,
    )


if __name__ == "__main__":
    given = arguments(__doc__, rounds=7).parse_args()
    main(given.rounds, given.device)
