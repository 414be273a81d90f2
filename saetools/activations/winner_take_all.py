"""The rows on which each latent is largest: its frequency is exact within a batch."""

from torch import Tensor

from saetools.activations.state import PerLatent, rho_per_latent, rows_of


class WinnerTakeAll(PerLatent):
    """Passes the largest rho B of each latent's B pre-activations in a batch, and 0 elsewhere.

    At least one, and those equal to it; winners below 0 pass as well, so that the frequency is
    exact. Evaluation mode is no different: which rows a latent wins depends on the others.

    Source: lifetime sparsity of Makhzani and Frey 2015, arXiv 1409.2752. With a rho per latent it
    is Feature Choice, of m_j = rho_j B rows for latent j: Ayonrinde 2024, arXiv 2411.02124.

    Args:
        latents: L.
        rho: in (0, 1); a tensor (L,) for one each, or (N, L) for an ensemble.

    Example:
        >>> import torch
        >>> winners = WinnerTakeAll(2, torch.tensor([0.1, 0.5]))(torch.randn(100, 2))
        >>> winners.ne(0).float().mean(0)
        tensor([0.1000, 0.5000])
    """

    rho: Tensor

    def __init__(self, latents: int, rho: float | Tensor) -> None:
        super().__init__()
        self.register_buffer("rho", rho_per_latent(latents, rho))

    def forward(self, pre_activations: Tensor) -> Tensor:
        """Latents (..., L)."""
        rows = rows_of(pre_activations, self.rho)
        count = rows.shape[-2]
        winners = (self.rho * count).round().long().clamp(min=1)
        largest = rows.detach().topk(int(winners.max()), dim=-2).values
        least = largest.gather(-2, winners.unsqueeze(-2) - 1)
        return rows.masked_fill(rows < least, 0).view_as(pre_activations)
