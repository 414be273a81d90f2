import math
from types import SimpleNamespace

import pytest
import torch
from sklearn import datasets

from saetools.tutorial import patches
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


def test_no_pixel_of_the_patches_is_in_two_parts(monkeypatch):
    number = torch.arange(120 * 150).view(120, 150, 1).expand(-1, -1, 3)
    images = SimpleNamespace(images=[number.numpy()])  # every pixel has a grey of its own
    monkeypatch.setattr(datasets, "load_sample_images", lambda: images)
    monkeypatch.setattr(patches, "normalised", lambda x: x)
    rows = image_patches()
    pixels = {part: set(x.flatten().int().tolist()) for part, x in rows.items()}
    assert len(rows["train"]) > len(rows["test"]) > len(rows["held_out"]) > 0
    assert pixels["train"].isdisjoint(pixels["test"] | pixels["held_out"])
    assert pixels["test"].isdisjoint(pixels["held_out"])


def test_orientation_knows_gratings_of_any_direction_from_noise():
    place = torch.arange(10.0)
    angles = torch.linspace(0, math.pi, 7)[:-1, None, None]
    waves = torch.sin(0.9 * (place[:, None] * angles.sin() + place * angles.cos()))
    assert orientation(waves.flatten(1)).min() > 0.9
    noise = torch.randn(200, 100, generator=torch.Generator().manual_seed(0))
    assert orientation(noise).median() < 0.3
    assert torch.allclose(orientation(7 * noise), orientation(noise), atol=1e-4)
