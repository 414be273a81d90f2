"""Patches of photographs, for codes whose latents can be looked at. Needs scikit-learn."""

import torch
from torch import Tensor

PARTS = ("train", "held_out", "test")


def image_patches(*, side: int = 10, tile: int = 30) -> dict[str, Tensor]:
    """Patches (rows, side * side) of scikit-learn's two photographs, in grey, at mean 0, spread 1.

    Photographs are cut into tiles, and of ten neighbouring tiles one is held out, two are for the
    test; a patch lies within one tile, so that no pixel is in two parts. Those that hardly vary are
    left out.

    Returns:
        The rows of each of the PARTS.

    Example:
        >>> {part: tuple(rows.shape) for part, rows in image_patches(side=29).items()}
        {'train': (1096, 841), 'held_out': (174, 841), 'test': (329, 841)}
    """
    from sklearn.datasets import load_sample_images

    found: dict[str, list[Tensor]] = {part: [] for part in PARTS}
    for picture in load_sample_images().images:
        grey = torch.tensor(picture).float().mean(-1)
        for row, stripe in enumerate(grey.split(tile)):
            for column, piece in enumerate(stripe.split(tile, dim=1)):
                if piece.shape == (tile, tile):
                    place = (row + 3 * column) % 10
                    part = "held_out" if place == 0 else "test" if place in (3, 6) else "train"
                    patches = piece.unfold(0, side, 1).unfold(1, side, 1)
                    found[part].append(patches.reshape(-1, side * side))
    return {part: normalised(torch.cat(patches)) for part, patches in found.items()}


def normalised(patches: Tensor) -> Tensor:
    """Each at mean 0 and spread 1, without those that hardly vary."""
    patches = patches - patches.mean(1, keepdim=True)
    spread = patches.std(1, keepdim=True)
    varied = spread[:, 0] > 4  # of 256 levels of grey
    return patches[varied] / spread[varied]


def orientation(pictures: Tensor) -> Tensor:
    """How far each of n pictures (n, side * side) has one direction, (n,), from 0 to 1.

    The coherence of the structure tensor: with g the differences of neighbouring pixels and S the
    sum of their products g g', it is (s - t) / (s + t), of the eigenvalues s >= t of S. An edge or
    a grating has 1, noise or a blot near 0. Source: Bigün and Granlund 1987, Optimal orientation
    detection of linear symmetry.

    Example:
        >>> stripes = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
        >>> blot = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
        >>> orientation(torch.stack([stripes, blot]).flatten(1))
        tensor([1., 0.])
    """
    side = round(pictures.shape[1] ** 0.5)
    x = pictures.view(-1, side, side)
    down = (x[:, 1:, 1:] + x[:, 1:, :-1] - x[:, :-1, 1:] - x[:, :-1, :-1]).flatten(1)
    across = (x[:, 1:, 1:] + x[:, :-1, 1:] - x[:, 1:, :-1] - x[:, :-1, :-1]).flatten(1)
    a, b, both = down.square().sum(1), across.square().sum(1), (down * across).sum(1)
    return ((a - b).square() + 4 * both.square()).sqrt() / (a + b)
