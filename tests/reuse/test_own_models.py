"""Models and loops that are not this package's: a layer of each fires as often as asked."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from saetools import (
    Capture,
    activation_frequency,
    frequency_penalty,
    pool_rows,
    target_frequency_,
    unit_spread_,
)

every_seed = pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in (1, 2))]
)
RHO = 0.2


def frequencies(model, loss, rows, weight, steps=200):
    """Train with an ordinary loop; the frequency of each unit afterwards."""
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        total = loss() + weight * frequency_penalty(rows(), rho=RHO) if weight else loss()
        adam.zero_grad()
        total.backward()
        adam.step()
    with torch.no_grad():
        loss()
        return activation_frequency(rows())


def misses(*arguments):
    return (frequencies(*arguments) - RHO).abs()


@every_seed
def test_an_mlp_whose_relu_works_in_place(seed):
    def fit(weight):
        torch.manual_seed(seed)
        model = nn.Sequential(
            *(nn.Linear(20, 32), nn.ReLU(inplace=True), nn.Linear(32, 16)),
            *(nn.ReLU(inplace=True), nn.Linear(16, 20)),
        )
        x = torch.randn(512, 5) @ torch.randn(5, 20) / 5**0.5
        with Capture(model, "2") as captured:
            return misses(
                model, lambda: (model(x) - x).square().mean(), lambda: captured["2"], weight
            )

    assert fit(weight=1.0).max() <= 0.04
    assert fit(weight=0.0).max() > 0.3


@every_seed
def test_a_cnn_whose_units_are_channels(seed):
    def fit(weight):
        torch.manual_seed(seed)
        model = nn.Sequential(
            *(nn.Conv2d(1, 6, 3), nn.ReLU(inplace=True), nn.AvgPool2d(6)),
            *(nn.Flatten(), nn.Linear(6, 2)),
        )
        labels = torch.arange(64) % 2
        images = torch.randn(64, 1, 8, 8)
        images[labels == 1] = images[labels == 1].cumsum(-1) / 2
        with Capture(model, "0") as captured:

            def rows():
                return pool_rows(captured["0"], units_dim=1)

            if weight:
                with torch.no_grad():
                    model(images)
                    target_frequency_(model[0].bias, rows(), RHO)
            return misses(model, lambda: cross_entropy(model(images), labels), rows, weight)

    assert fit(weight=1.0).max() <= 0.04
    assert fit(weight=0.0).max() > 0.15


class Tagger(nn.Module):
    """A recurrent layer, and a code of its output at every step."""

    def __init__(self, recurrent):
        super().__init__()
        self.recurrent = recurrent(3, 12, batch_first=True)
        self.code = nn.Linear(12, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.code(self.recurrent(x)[0]).relu())


@pytest.mark.slow
@every_seed
def test_a_sequence_model_whose_padding_is_left_out(seed):
    def fit(weight):
        torch.manual_seed(seed)
        model = Tagger(nn.GRU)
        lengths = torch.randint(1, 11, (64,))
        real = torch.arange(10) < lengths[:, None]
        x = torch.randn(64, 10, 3).where(real[..., None], 0.0)
        with Capture(model, "code") as captured:

            def rows():
                return pool_rows(captured["code"], units_dim=-1, mask=real)

            def loss():
                return (model(x) - x)[real].square().mean()

            if weight:
                with torch.no_grad():
                    loss()
                    unit_spread_(model.code, rows())
                    loss()
                    target_frequency_(model.code.bias, rows(), RHO)
            return misses(model, loss, rows, weight)

    assert fit(weight=1.0).max() <= 0.06
    assert fit(weight=0.0).max() > 0.3


def test_an_lstm_has_no_bias_of_its_output_to_start_at_a_frequency():
    model = Tagger(nn.LSTM)
    with Capture(model, "recurrent", select=lambda returned: returned[0]) as captured:
        model(torch.randn(4, 10, 3))
    assert pool_rows(captured["recurrent"], units_dim=-1).shape == (40, 12)
    with pytest.raises(TypeError, match=r"bias must be a torch\.Tensor, got bool"):
        target_frequency_(model.recurrent.bias, torch.randn(40, 12), RHO)  # says whether it has any


@pytest.mark.parametrize(
    ("layer", "inputs", "units_dim"),
    [
        (nn.Linear(5, 4), torch.randn(200, 5), -1),
        (nn.Linear(5, 4), torch.randn(20, 10, 5), -1),
        (nn.Conv1d(2, 4, 3), torch.randn(20, 2, 12), 1),
        (nn.Conv2d(2, 4, 3), torch.randn(10, 2, 8, 8), 1),
        (nn.ConvTranspose2d(2, 4, 3), torch.randn(10, 2, 8, 8), 1),
        (nn.BatchNorm2d(2), torch.randn(10, 2, 8, 8), 1),
    ],
)
def test_a_captured_layer_starts_at_the_asked_frequency(layer, inputs, units_dim):
    with torch.no_grad(), Capture(layer, "") as captured:
        layer(inputs)
        target_frequency_(layer.bias, pool_rows(captured[""], units_dim=units_dim), RHO)
        layer(inputs)
    rows = pool_rows(captured[""], units_dim=units_dim)
    assert ((activation_frequency(rows) - RHO).abs() <= 1 / len(rows)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_so_it_does_under_autocast(dtype):
    layer, inputs = nn.Linear(5, 4), torch.randn(1000, 5)
    with torch.no_grad(), Capture(layer, "") as captured, torch.autocast("cpu", dtype=dtype):
        layer(inputs)
        assert captured[""].dtype == dtype
        unit_spread_(layer, captured[""])
        layer(inputs)
        assert captured[""].std(0).tolist() == pytest.approx([1] * 4, rel=0.02)
        target_frequency_(layer.bias, captured[""], RHO)
        layer(inputs)
    assert ((activation_frequency(captured[""]) - RHO).abs() <= 0.03).all()
