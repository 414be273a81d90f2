"""The k largest latents of each row."""

import torch
from torch import Tensor, nn

from saetools.data.checks import check_count


class TopK(nn.Module):
    """Passes the k largest of each row's pre-activations (..., L), where they are above 0.

    Source: Gao et al. 2024, arXiv 2406.04093; Makhzani and Frey 2014, arXiv 1312.5663.

    Example:
        >>> TopK(2)(torch.tensor([[3.0, 1.0, 2.0], [1.0, -2.0, -1.0]]))
        tensor([[3., 0., 2.],
                [1., 0., 0.]])
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = check_count("k", k)

    def forward(self, pre_activations: Tensor) -> Tensor:
        """Latents (..., L)."""
        if pre_activations.shape[-1] < self.k:
            got = f"shape {tuple(pre_activations.shape)}"
            raise ValueError(f"pre_activations must have at least k = {self.k} latents, got {got}")
        kept, places = pre_activations.topk(self.k, dim=-1, sorted=False)
        return torch.zeros_like(pre_activations).scatter(-1, places, kept.relu())
