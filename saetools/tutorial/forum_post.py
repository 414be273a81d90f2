"""The forum post's network and penalty, kept wrong on purpose.

Source: discuss.pytorch.org/t/autoencoder-sparsity-term/96005, "Autoencoder & sparsity term".
Use it to reproduce the failure, never to train a model of your own.
"""

import torch
from torch import Tensor

from saetools.training.models import SparseAutoencoder


class PostedAutoencoder(SparseAutoencoder):
    """20-80-40-4-40-80-20 with a ReLU behind every layer, the output layer included.

    Example:
        >>> PostedAutoencoder(seed=0)(torch.rand(5, 20)).reconstruction.min() >= 0
        tensor(True)
    """

    def __init__(self, *, seed: int | None = None) -> None:
        super().__init__((20, 80, 40, 4), output=torch.relu, seed=seed)


def posted_penalty(
    encoded: Tensor,
    *,
    batch_size: int,
    rho: float = 0.2,
    beta: float = 1.0,
    context_dimension: int = 20,
) -> Tensor:
    """The post's sparsity term: right value (if the rows are right), no gradient.

    `batch_size / context_dimension` is the post's count of rows, true where a batch is a flat
    stream of batch_size scalars reshaped into rows of context_dimension. Where a batch is
    batch_size rows, as any loader makes it, rho_hat is context_dimension times too large, and
    past 1 the result is NaN.

    Args:
        encoded: (B, L), the code behind its ReLU.
        batch_size: what the post divides by, in scalars under its reading.
        rho: target frequency.
        beta: factor of the penalty.
        context_dimension: features of an input row.

    Example:
        >>> encoded = torch.tensor([[1.0], [0.0]], requires_grad=True)
        >>> posted_penalty(encoded, batch_size=40)  # 40 scalars are 2 rows of 20
        tensor(0.1927)
        >>> posted_penalty(encoded, batch_size=2)
        tensor(nan)
        >>> posted_penalty(encoded, batch_size=40).requires_grad
        False
    """
    rho_hat = (encoded > 0).sum(dim=0)
    rho_hat = torch.div(rho_hat, batch_size / context_dimension)
    for index in range(rho_hat.shape[0]):
        if rho_hat[index] == 0:
            rho_hat[index] = 0.001
        if rho_hat[index] == 1:
            rho_hat[index] = 0.999
    target = torch.full_like(rho_hat, rho)
    on = torch.sum(target * torch.log(target / rho_hat))
    off = torch.sum((1 - target) * torch.log((1 - target) / (1 - rho_hat)))
    return beta * (on + off)
