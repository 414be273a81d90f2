"""A training with all that a checkpoint must hold, for tests that stop it, or kill its process."""

import os
import random
import signal
import stat
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from saetools import FrequencyMultipliers, Output, train

X = torch.rand(50, 20, generator=torch.Generator().manual_seed(0))
STEPS = 60  # of four batches an epoch, the last of them of two rows


class Network(nn.Module):
    """It draws from torch's global generator, keeps buffers, and has an unusual layout."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder = nn.Sequential(
                nn.Unflatten(1, (5, 2, 2)),
                nn.Conv2d(5, 12, 2),
                nn.Flatten(),
                nn.BatchNorm1d(12),
                nn.Dropout(0.3),
                nn.Linear(12, 4),
            ).to(memory_format=torch.channels_last)
            self.decoder = nn.Linear(4, 20)

    def forward(self, x):
        z = self.encoder(x)
        return Output(self.decoder(z.relu()), z.relu(), z)


class Hook:
    """A function that is called; without a __dict__ it is not what a training is known by."""

    __slots__ = ("function",)

    def __init__(self, function):
        self.function = function


class Penalty(FrequencyMultipliers):
    """It keeps multipliers, and draws from the generators of Python and NumPy."""

    def __init__(self, at_step):
        super().__init__(rho=0.2)
        self.hook = Hook(at_step)

    def __call__(self, output):
        self.hook.function()
        noise = random.random() + np.random.random()  # noqa: NPY002
        return super().__call__(output) + 0.1 * noise * output.latents.mean()


def look(model):
    return {"sum": model.decoder.weight.sum().item(), "bias": model.decoder.bias.clone()}


def one_cycle(adam):
    return OneCycleLR(adam, 1e-2, STEPS)


def training(path, *, every=4, at_step=lambda: None, seed=3, **options):
    """Train, and return everything that must be the same in the end, by name."""
    model, penalty = Network(), Penalty(at_step)
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    history = train(
        model,
        X,
        penalty,
        steps=STEPS,
        batch_size=16,
        scheduler=one_cycle,
        observe=look,
        observe_every=7,
        checkpoint=path,
        checkpoint_every=every,
        **options,
    )
    drawn = [torch.rand(()).item(), random.random(), np.random.random()]  # noqa: NPY002
    return {
        **model.state_dict(),
        "error": history.error,
        "penalty": history.penalty,
        "steps observed": [step for step, _ in history.observations],
        "sums": [seen["sum"] for _, seen in history.observations],
        "biases": torch.stack([seen["bias"] for _, seen in history.observations]),
        "multipliers": penalty.multipliers,
        "drawn afterwards": drawn,
    }


def die_in_write(number, where):
    """Arrange that this process dies while it writes its checkpoint of this number, from 0."""
    owner, name = (os, "fsync") if where == "half" else (Path, "replace")
    real, calls = getattr(owner, name), []

    def deadly(target, *arguments):
        if name == "replace" or not stat.S_ISDIR(os.fstat(target).st_mode):
            calls.append(target)
        if len(calls) == number + 1:
            if where == "half":
                os.truncate(target, os.fstat(target).st_size // 2)
            if where == "after":
                real(target, *arguments)
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        return real(target, *arguments)

    setattr(owner, name, deadly)


def train_in_a_process(path, result, steps, wait_for_the_end, write):
    """Train, count the steps in `steps`, and leave what came out in a file."""
    torch.set_num_threads(1)
    if write is not None:
        die_in_write(*write)

    def count():
        steps.value += 1
        if wait_for_the_end and steps.value == STEPS:
            time.sleep(600)

    torch.save(training(path, at_step=count, every=3), result)
