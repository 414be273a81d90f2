import math

import pytest
import torch

from saetools.tutorial.patches import PARTS, image_patches, orientation


@pytest.fixture(scope="module")
def parts():
    return image_patches()


def test_patches_are_at_mean_0_and_spread_1(parts):
    assert tuple(parts) == PARTS
    for rows in parts.values():
        assert rows.shape[1] == 100
        assert rows.mean(1).abs().max() < 1e-4
        assert (rows.std(1) - 1).abs().max() < 1e-4


def test_no_patch_of_the_test_is_in_the_training(parts):
    def seen(rows):
        return {tuple(row) for row in rows[:, :8].mul(1e4).round().int().tolist()}

    train, test = seen(parts["train"]), seen(parts["test"])
    assert len(test & train) < 1e-3 * len(test)  # but for places that look alike


def test_orientation_knows_gratings_of_any_direction_from_noise():
    place = torch.arange(10.0)
    angles = torch.linspace(0, math.pi, 7)[:-1, None, None]
    waves = torch.sin(0.9 * (place[:, None] * angles.sin() + place * angles.cos()))
    assert orientation(waves.flatten(1)).min() > 0.9
    noise = torch.randn(200, 100, generator=torch.Generator().manual_seed(0))
    assert orientation(noise).median() < 0.3
    assert torch.allclose(orientation(7 * noise), orientation(noise), atol=1e-4)
