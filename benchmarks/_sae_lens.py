"""sae-lens' own TopK and BatchTopK for large_codes.py, through its trainer. Read in 6.54.

Its defaults but for these: the decoder's bias starts at the mean of the rows, and its rows at norm
1, as here (at its own 0.1, latents died); a latent is dead after 50 batches in which it was off, as
in AuxK here; the learning rate rises and falls as here. It clips gradients, adds AuxK's loss to
both, and scales latents by the norms of the decoder's rows in place of keeping those at 1.
"""

import importlib
import importlib.util
from typing import Any

import torch
from _codes import Autoencoders, spent
from torch import Tensor

NAMES = {"sae-lens TopK": "TopK", "sae-lens BatchTopK": "BatchTopK"}


def at_hand() -> list[str]:
    """The names of its methods, none where it is not installed."""
    return list(NAMES) if importlib.util.find_spec("sae_lens") else []


def train_sae_lens(
    name: str, models: Autoencoders, x: Tensor, *, l0: int, steps: int, batch: int, lr: float
) -> tuple[Tensor | None, float]:
    """Train one a seed on rows x, and put what was learned into `models`.

    Returns: the thresholds (N, L), or None where a row decides, and seconds per step of them all.
    """
    library = importlib.import_module("sae_lens")
    config = importlib.import_module("sae_lens.config").SAETrainerConfig
    members, latents, device = len(models.bias), models.bias.shape[-1], str(x.device)
    kind = NAMES[name]
    settings: dict[str, Any] = {"d_in": x.shape[1], "d_sae": latents, "k": l0, "device": device}
    settings["decoder_init_norm"] = 1.0
    total = {"total_training_samples": steps * batch, "train_batch_size_samples": batch}
    rates = {"lr": lr, "lr_warm_up_steps": steps // 20, "lr_decay_steps": steps // 4, "lr_end": 0.0}
    thresholds, taken = [], 0.0
    for seed in range(members):
        torch.manual_seed(seed)
        sae = getattr(library, f"{kind}TrainingSAE")(
            getattr(library, f"{kind}TrainingSAEConfig")(**settings)
        )
        sae.b_dec.data.copy_(models.centre[seed, 0])
        trainer = library.SAETrainer(
            config(**total, **rates, device=device, dead_feature_window=50), sae, iter(())
        )
        generator = torch.Generator(device).manual_seed(seed)
        begun = spent(x.device)
        for _ in range(steps):
            rows = torch.randint(len(x), (batch,), generator=generator, device=device)
            trainer.step(x[rows].float())
            trainer.n_training_steps += 1
        taken += spent(x.device) - begun
        norms = sae.W_dec.detach().norm(dim=-1)
        with torch.no_grad():
            models.encoder[seed] = sae.W_enc * norms
            models.bias[seed, 0] = sae.b_enc * norms
            models.decoder[seed] = sae.W_dec / norms[:, None]
            models.centre[seed, 0] = sae.b_dec
        if kind == "BatchTopK":
            thresholds.append(sae.topk_threshold.float().expand(latents))
    return (torch.stack(thresholds) if thresholds else None), taken / steps
