"""Training steps of other libraries' ReLU autoencoders, each through the library's own code.

One layer of encoder and decoder, an L1 penalty, Adam; no language model, activation buffer,
evaluation, logging or saving. Read in sae-lens 6.54, dictionary-learning 0.1 and overcomplete 0.3.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

Run = Callable[[Iterable[Tensor]], object]  # trains on every batch it is given
Make = Callable[[tuple[int, int], torch.device, float], Run]  # from sizes, device and rate


def sae_lens(sizes: tuple[int, int], device: torch.device, lr: float) -> Run:
    """`SAETrainer.step`: it also counts how often each unit fires, and clips gradients."""
    from sae_lens import SAETrainer, StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig

    where = str(device)
    sae = StandardTrainingSAE(StandardTrainingSAEConfig(*sizes, device=where))
    many: dict[str, int] = {"total_training_samples": 10**9, "train_batch_size_samples": 1024}
    config = SAETrainerConfig(**many, lr=lr, lr_end=lr, device=where)
    trainer = SAETrainer(config, sae, iter(()))

    def run(stream: Iterable[Tensor]) -> None:
        for x in stream:
            trainer.step(x)
            trainer.n_training_steps += 1

    return run


def dictionary_learning(sizes: tuple[int, int], device: torch.device, lr: float) -> Run:
    """`StandardTrainerAprilUpdate.update`: it clips gradients, and steps a schedule.

    The library's StandardTrainer keeps the decoder's columns at norm 1, which is more work.
    """
    from dictionary_learning.trainers.standard import StandardTrainerAprilUpdate

    trainer = StandardTrainerAprilUpdate(
        10**6, *sizes, layer=0, lm_name="", lr=lr, device=str(device)
    )

    def run(stream: Iterable[Tensor]) -> None:
        for step, x in enumerate(stream):
            trainer.update(step, x)

    return run


def overcomplete(sizes: tuple[int, int], device: torch.device, lr: float, *, lean: bool) -> Run:
    """`train_sae` with `mse_l1`: it normalises the dictionary, and tracks which units fired.

    As documented, with torch's default Adam and clipped gradients; or lean, with the fused Adam and
    without clipping, which its arguments allow.
    """
    from overcomplete.sae import SAE, mse_l1, train_sae

    sae = SAE(*sizes, device=str(device))
    adam = torch.optim.Adam(sae.parameters(), lr=lr, fused=lean or None)
    options: dict[str, Any] = {"nb_epochs": 1, "monitoring": 0, "device": str(device)}
    if lean:
        options["clip_grad"] = None
    return lambda stream: train_sae(sae, stream, mse_l1, adam, **options)


# name: the module it needs, and what makes it
PEERS: dict[str, tuple[str, Make]] = {
    "sae-lens": ("sae_lens", sae_lens),
    "dictionary-learning": ("dictionary_learning.trainers.standard", dictionary_learning),
    "overcomplete": ("overcomplete.sae", partial(overcomplete, lean=False)),
    "overcomplete, lean": ("overcomplete.sae", partial(overcomplete, lean=True)),
}


@contextmanager
def _stand_in_for_torchvision() -> Iterator[None]:
    """Where it is not installed, an empty module: its builds are for one torch each.

    overcomplete imports it beside its autoencoders, and uses it for image models alone.
    """
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    names = ("torchvision", "torchvision.transforms")
    for name in names:
        sys.modules[name] = ModuleType(name)
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def importable() -> dict[str, Make]:
    """Those of PEERS that can be imported; for each other, a line says why not."""
    found = {}
    for name, (module, make) in PEERS.items():
        try:
            with _stand_in_for_torchvision() if name.startswith("overcomplete") else nullcontext():
                importlib.import_module(module)
        except Exception as error:  # another package's version can break an import in many ways
            print(f"{name} is left out, it cannot be imported: {error!r}")
        else:
            found[name] = make
    return found
