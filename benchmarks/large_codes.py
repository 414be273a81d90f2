"""Thousands of latents: every way to be sparse in one loop, on image patches or on activations.

python benchmarks/large_codes.py [--activations FILE] [--latents 512 ...] [--l0 10 ...] [--steps N]
    [--batch N] [--seeds N] [--methods NAME ...] [--device cpu|cuda] [--seconds N] [--untied]

One hidden layer in the form that researchers call a sparse autoencoder, see `Autoencoders` in
_codes.py. Adam at a constant rate that ends in a linear fall, the same batches for all methods, and
no setting chosen on test rows. Seeds are trained at once, as members of one batch of matrices.

Every method is measured at the L0 asked for: one number, the same for all latents, is added to its
thresholds so that L0 is right on held-out rows, which are no rows of the training or the test; for
TopK there is none to set. `as trained` is without it. A latent's own frequency is the one asked of
it, or, where a method asks for none, the one on training rows; `within 20 %` is the share of
latents on so many per cent more or fewer test rows, of latents due on 50 of them or more. Dead: on
no test row; rare: on fewer than a twentieth of L0 / L; dense: on more than a tenth of the rows.

Writes results/large_codes.csv, a line per method, width and seed, results/large_codes.md and
results/large_codes.png; with --activations the names end in _activations, on a GPU in _cuda.
"""

import argparse
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _codes import (
    Autoencoders,
    Codes,
    Measured,
    Rows,
    load_rows,
    measure,
    shift_for_l0,
    some_rows,
    spent,
)
from _large_methods import METHODS, Make
from _large_report import stem, write, write_csv
from _large_setting import Batch, Method, setting
from _sae_lens import NAMES, at_hand, train_sae_lens
from torch import Tensor

from saetools import TopK


def passed(method: Method, thresholds: Tensor, shift: Tensor | float = 0.0) -> Codes:
    """What passes thresholds (N, L), all moved by a shift (N, 1, 1)."""
    theta = thresholds.unsqueeze(-2) + shift
    if method.excess:
        return lambda z: (z - theta).relu()
    return lambda z: z.masked_fill(z <= theta, 0)


def train(
    models: Autoencoders,
    method: Method,
    x: Tensor,
    spread: Tensor,
    *,
    steps: int,
    batch: int,
    lr: float,
    seconds: float,
) -> tuple[float, float]:
    """Train N models on rows x; seconds per step and of the turn, of processor or else clock."""
    members, device = len(models.bias), x.device
    generators = [torch.Generator(device).manual_seed(seed) for seed in range(members)]
    variance = (some_rows(x, 8192) - x.float().mean(0)).square().sum(1).mean()
    learned = [w for w in models.parameters() if not (method.normed and w is models.bias)]
    own = list(method.activation.parameters())
    groups = [{"params": learned, "pace": 1.0}, {"params": own, "pace": method.pace}]
    adam = torch.optim.Adam(groups[: 1 + bool(own)], fused=True)
    method.activation.train()
    begun, start, turning = time.perf_counter(), spent(device), 0.0
    for step in range(steps):
        left = (steps - step) / steps
        for group in adam.param_groups:
            group["lr"] = group["pace"] * lr * min(1.0, 20 * (1 - left + 1 / steps), 4 * left)
        if method.turn and step == int(method.turn[0] * steps):
            before = spent(device)
            with torch.no_grad():
                method.turn[1](models.encode(some_rows(x, 1 << 15, seed=step)))
            turning = spent(device) - before
        draws = [torch.randint(len(x), (batch,), generator=g, device=device) for g in generators]
        rows = x[torch.stack(draws)].float()
        z = models.encode(rows)
        latents = method.activation(z)
        x_hat = models.decode(latents)
        loss = (x_hat - rows).square().sum(-1).mean(-1) / variance
        if method.added:
            loss = loss + method.added(Batch(z, latents, rows, x_hat, spread))
        adam.zero_grad()
        loss.sum().backward()
        adam.step()
        models.normalise_(encoder=method.normed)
        if step % 50 == 49 and time.perf_counter() - begun > seconds:
            raise TimeoutError(f"{step + 1} of {steps} steps in {seconds} seconds")
    method.activation.eval()
    return (spent(device) - start - turning) / steps, turning


def judged(
    method: Method, models: Autoencoders, rows: Rows, l0: int, most: int
) -> tuple[dict[str, Measured], dict[str, Measured], Tensor]:
    """Measured on each part at the L0 asked for and as trained, and the own frequencies (N, L)."""
    parts = {part: some_rows(x, most) for part, x in rows.items()}
    at_once = (1 << 32) // models.bias.numel()  # what memory holds
    with torch.no_grad():
        theta = method.thresholds(models.encode(parts["train"][:at_once]))
    if theta is None:
        trained: Codes = method.activation
        found = shifted = {part: measure(models, trained, x) for part, x in parts.items()}
    else:
        trained = passed(method, theta)
        shift = shift_for_l0(
            models, lambda s: passed(method, theta, s), parts["held_out"][:20_000], l0
        )
        found = {part: measure(models, trained, x) for part, x in parts.items()}
        codes = passed(method, theta, shift)
        shifted = {part: measure(models, codes, x) for part, x in parts.items()}
    own = method.rho() if method.rho else found["train"].frequency
    return shifted, found, own.to(found["train"].frequency)


def lines(
    name: str,
    found: tuple[dict[str, Measured], dict[str, Measured], Tensor],
    tests: int,
    **settings: Any,
) -> list[dict[str, Any]]:
    """A line of the table per seed."""
    shifted, trained, own = found
    latents = own.shape[-1]
    table = []
    for seed, rho in enumerate(own):
        f = shifted["test"].frequency[seed]
        near = {part: (trained[part].frequency[seed] / rho - 1).abs() < 0.2 for part in trained}
        due = rho * tests >= 50
        table.append(
            {
                "method": name,
                "seed": seed,
                "fvu": float(shifted["test"].fvu[seed]),
                "l0_test": float(f.sum()),
                "l0_held_out": float(shifted["held_out"].frequency[seed].sum()),
                "l0_train": float(shifted["train"].frequency[seed].sum()),
                "within_train": float(near["train"].float().mean()),
                "within_test": float(near["test"][due].float().mean()),
                "due": float(due.float().mean()),
                "dead": int((f == 0).sum()),
                "rare": int((f < settings["l0"] / latents / 20).sum()),
                "dense": int((f > 0.1).sum()),
                "fvu_held_out": float(shifted["held_out"].fvu[seed]),
                "fvu_train": float(shifted["train"].fvu[seed]),
                "fvu_as_trained": float(trained["test"].fvu[seed]),
                "l0_as_trained": float(trained["test"].frequency[seed].sum()),
                "lowest": float(f.min()),
                "median": float(f.median()),
                "highest": float(f.max()),
                **settings,
            }
        )
    return table


def run(
    name: str, make: Make | None, rows: Rows, latents: int, l0: int, given: argparse.Namespace
) -> list[dict[str, Any]]:
    """Train and measure one method at one width; `make` is None for sae-lens' own."""
    train_rows = rows["train"]
    sample = some_rows(train_rows, 1 << 18)
    models = Autoencoders(sample, latents, given.seeds, untied=given.untied)
    options: dict[str, Any] = {"steps": given.steps, "batch": given.batch, "lr": given.lr}
    if make is None:
        theta, taken = train_sae_lens(name, models, train_rows, l0=l0, **options)
        method, turning = Method(TopK(l0), thresholds=lambda _: theta), 0.0
    else:
        at_start = setting(models, rows, l0)
        method = make(at_start)
        method.activation.to(train_rows.device)
        spread = at_start.z.std((1, 2), keepdim=True)
        del at_start  # it holds a batch of pre-activations
        limit = given.seconds
        taken, turning = train(models, method, train_rows, spread, seconds=limit, **options)
    found = judged(method, models, rows, l0, given.rows)
    tests = min(len(rows["test"]), given.rows)
    options |= {"latents": latents, "l0": l0, "ms": 1e3 * taken / given.seeds}
    options["turn_ms"] = 1e3 * turning / given.seeds
    return lines(name, found, tests, device=given.device.type, untied=given.untied, **options)


def main(given: argparse.Namespace) -> None:
    """Every method at every width; the table is written again after each."""
    rows = load_rows(given.activations, given.device)
    print({part: tuple(x.shape) for part, x in rows.items()}, flush=True)
    given.out.mkdir(exist_ok=True, parents=True)
    table: list[dict[str, Any]] = []
    for latents, l0 in zip(given.latents, given.l0, strict=True):
        for name in given.methods or [*METHODS, *at_hand()]:
            begun = time.perf_counter()
            try:
                table += run(name, METHODS.get(name), rows, latents, l0, given)
            except Exception:  # one that fails must not cost the others' hours
                print(f"{name} at {latents} failed:", traceback.format_exc(), flush=True)
                continue
            write_csv(table, given.out / f"{stem(given)}.csv")
            # Of held-out rows, as that is what settings are chosen by.
            shown = ("fvu_held_out", "l0_held_out", "within_train", "ms")
            last = {key: round(float(table[-1][key]), 4) for key in shown}
            print(latents, name, last, f"{time.perf_counter() - begun:.0f} s", flush=True)
    if table:
        write(table, given)


def parser(names: Sequence[str]) -> argparse.ArgumentParser:
    """The settings; by default three seeds on image patches."""
    made = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    made.add_argument("--activations", type=Path, help="made by collect_activations.py")
    made.add_argument("--latents", type=int, nargs="+", default=[512])
    made.add_argument("--l0", type=int, nargs="+", default=[10])
    made.add_argument("--steps", type=int, default=1000)
    made.add_argument("--batch", type=int, default=512)
    made.add_argument("--lr", type=float, default=8e-3)
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--methods", nargs="+", choices=names)
    made.add_argument("--seconds", type=float, default=3600, help="for one training, at the most")
    made.add_argument("--rows", type=int, default=200_000, help="measured of each part, at most")
    made.add_argument("--untied", action="store_true", help="the encoder starts on its own")
    made.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    best = "cuda" if torch.cuda.is_available() else "cpu"
    made.add_argument("--device", type=torch.device, default=torch.device(best))
    return made


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")  # TF32, where there is such a thing
    main(parser([*METHODS, *NAMES]).parse_args())
