"""The recipe on models that are not this package's."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from saetools import (
    Capture,
    SparseAutoencoder,
    activation_frequency,
    pool_rows,
    train_layer_at_frequency,
)

RHO = 0.15


class Tied(nn.Module):
    """The decoder's weight is the encoder's; x varies in fewer directions than there are units."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(16, 24)
        self.bias = nn.Parameter(torch.zeros(16))

    def forward(self, x):
        return self.encoder(x).relu() @ self.encoder.weight + self.bias


class Reader(nn.Module):
    """A recurrent layer, a code of what it says at each step, and a class for the sequence."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 12, batch_first=True)
        self.code = nn.Linear(12, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.code(self.lstm(x)[0]).relu().mean(1))


def mlp():
    return nn.Sequential(
        *(nn.Linear(16, 24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 8)),
        *(nn.ReLU(inplace=True), nn.Linear(8, 3)),
    )


def cnn():
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 6, 2), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 8, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)),
    )


def dictionary():
    return SparseAutoencoder(
        (16, 24), nn.Identity(), centred=True, unit_norm_decoder=True, seed=torch.initial_seed()
    )


def rows(count, seed):
    """Rows (count, 16) in which six causes come and go, and what was strongest of three of them."""
    generator = torch.Generator().manual_seed(seed)
    causes = torch.rand(count, 6, generator=generator).pow(3)
    mixing = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    x = causes @ mixing + 0.1 * torch.randn(count, 16, generator=generator)
    return x, causes[:, :3].argmax(1)


X, LABELS = rows(2000, seed=1)
HELD_OUT, HELD_OUT_LABELS = rows(2000, seed=2)


def classify(model, batch):
    x, labels = batch
    return cross_entropy(model(x), labels)


def classify_sequences(model, batch):
    return classify(model, (batch[0].view(-1, 4, 4), batch[1]))


def loader():
    generator = torch.Generator().manual_seed(0)
    return DataLoader(TensorDataset(X, LABELS), 100, shuffle=True, generator=generator)


MODELS = {  # what makes it, the layer, where its units are, data and loss
    "mlp": (mlp, "3", -1, {"x": loader(), "loss": classify}),
    "cnn": (cnn, "4", 1, {"x": loader(), "loss": classify}),
    "batch norm": (cnn, "2", 1, {"x": loader(), "loss": classify}),
    "lstm": (Reader, "code", -1, {"x": loader(), "loss": classify_sequences}),
    "tied": (Tied, "encoder", -1, {"x": X}),
    "dictionary": (dictionary, "encoder.0", -1, {"x": X.split(100)}),
}


def made(name, seed=0):
    torch.manual_seed(seed)
    return MODELS[name][0]()


def frequency_and_loss(name, model, x=HELD_OUT, labels=HELD_OUT_LABELS):
    _, layer, units_dim, given = MODELS[name]
    was_training = model.training
    model.eval()
    with torch.no_grad(), Capture(model, layer) as captured:
        if "loss" in given:
            loss = given["loss"](model, (x, labels))
        else:
            output = model(x)
            output = getattr(output, "reconstruction", output)
            loss = (output - x).square().mean() / x.var(0).mean()  # the FVU
        z = pool_rows(captured[layer], units_dim=units_dim)
    model.train(was_training)
    return activation_frequency(z), loss.item()


def bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in {*a, *b})


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))])
@pytest.mark.parametrize("name", MODELS)
def test_each_unit_ends_at_rho_on_training_and_on_held_out_rows(name, seed):
    _, layer, _, given = MODELS[name]
    model = made(name, seed)
    before, guess = frequency_and_loss(name, model)
    history = train_layer_at_frequency(model, layer=layer, rho=RHO, steps=350, **given)
    assert history.error.shape == history.penalty.shape == (350,)
    frequency, _ = frequency_and_loss(name, model, X, LABELS)
    assert ((frequency - RHO).abs() <= 1.1 / len(X)).all()  # to within a row
    frequency, loss = frequency_and_loss(name, model)
    assert ((frequency - RHO).abs() < 0.05).all()  # so that none is dead
    assert loss < 0.9 * min(guess, 1.0)
    assert (before - RHO).abs().max() > 0.15
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_each_unit_may_have_a_rate_of_its_own():
    model, rho = made("tied"), torch.linspace(0.02, 0.5, 24)
    train_layer_at_frequency(model, X, layer="encoder", rho=rho, steps=70)
    frequency, _ = frequency_and_loss("tied", model, X)
    assert ((frequency - rho).abs() <= 1.1 / len(X)).all()


@pytest.mark.parametrize("name", ["cnn", "tied", "dictionary"])
def test_what_the_layer_depends_on_is_held_after_the_shift(name):
    _, layer, _, given = MODELS[name]
    model, seen = made(name), []
    options = {"steps": 14, "observe": lambda model: seen.append(bits(model)), "observe_every": 10}
    train_layer_at_frequency(model, layer=layer, rho=RHO, **options, **given)
    start, learned, shifted, end = seen
    moved = {
        "cnn": {"7.weight", "7.bias"},
        "tied": {"bias"},
        "dictionary": {"decoder.0.weight"},  # its bias is taken from the rows first
    }
    assert {n for n in learned if not torch.equal(learned[n], shifted[n])} == {f"{layer}.bias"}
    assert {n for n in shifted if not torch.equal(shifted[n], end[n])} == moved[name]
    assert not same(start, learned)


def test_the_layer_starts_at_rho_with_a_spread_of_1_and_a_tied_one_keeps_its_weight():
    for name in ("mlp", "tied"):
        model, seen = made(name).eval(), []
        weight = model.get_submodule(MODELS[name][1]).weight.detach().clone()

        def look(model, name=name, seen=seen):
            with Capture(model, layer := MODELS[name][1]) as captured:
                model(X)
            seen.append((captured[layer], model.get_submodule(layer).weight.clone()))

        given = MODELS[name][3] | {"steps": 4, "observe": look}
        train_layer_at_frequency(model, layer=MODELS[name][1], rho=RHO, **given)
        z, scaled = seen[0]
        assert ((activation_frequency(z) - RHO).abs() <= 1.1 / len(X)).all()
        if name == "tied":
            assert torch.equal(scaled, weight)
        else:
            assert z.std(0).tolist() == pytest.approx([1] * 8, rel=1e-3)
        assert not model.training


def test_padding_is_left_out_by_a_mask():
    class Tagger(Reader):
        def forward(self, x):
            return self.out(self.code(self.lstm(x)[0]).relu())

    torch.manual_seed(0)
    model, x = Tagger(), X[:600].view(-1, 4, 4)
    real = torch.arange(4) < torch.randint(1, 5, (600, 1))
    x = x.where(real[..., None], 0.0)
    batches = list(zip(x.split(100), real.split(100), strict=True))

    def loss(model, batch):
        x, real = batch
        return cross_entropy(model(x)[real], x[..., :3].argmax(-1)[real])

    given = {"loss": loss, "mask": lambda batch: batch[1], "steps": 35}
    train_layer_at_frequency(model, batches, layer="code", rho=RHO, **given)
    with torch.no_grad():
        z = model.code(model.lstm(x)[0])
    assert ((activation_frequency(z[real]) - RHO).abs() <= 1.1 / int(real.sum())).all()
    assert ((activation_frequency(z) - RHO).abs() > 0.01).any()


def test_a_layer_that_runs_more_than_once_is_counted_over_its_runs():
    class Twice(Tied):
        def forward(self, x):
            return super().forward(x) + super().forward(-x)

    torch.manual_seed(0)
    model = Twice()
    train_layer_at_frequency(model, X, layer="encoder", rho=RHO, steps=14)
    with torch.no_grad():
        z = model.encoder(torch.cat([X, -X]))
    assert ((activation_frequency(z) - RHO).abs() <= 1.1 / len(z)).all()


class StoppedError(Exception):
    pass


def stop_after(calls):
    def observe(_model):
        observe.seen += 1
        if observe.seen == calls:
            raise StoppedError

    observe.seen = 0
    return observe


@pytest.mark.parametrize("calls", [1, 9, 13])
def test_after_an_error_the_model_is_as_it_was(calls):
    model = made("cnn")
    model[1].bias.requires_grad_(False)
    model[7].eval()
    before, modes = bits(model), [part.training for part in model.modules()]
    options = {"steps": 14, "observe": stop_after(calls), "observe_every": 1}
    with pytest.raises(StoppedError):
        train_layer_at_frequency(model, layer="4", rho=RHO, **MODELS["cnn"][3], **options)
    assert same(bits(model), before)
    assert [part.training for part in model.modules()] == modes
    assert [not p.requires_grad for p in model.parameters()] == [False, True, *[False] * 6]
    assert not any(part._forward_hooks for part in model.modules())


@pytest.mark.parametrize("calls", [5, 13], ids=["learn", "hold"])
def test_a_checkpoint_goes_on_in_either_phase(tmp_path, calls):
    def run(observe=None):
        model = made("tied")
        options = {"steps": 14, "observe": observe, "observe_every": 1, "checkpoint_every": 2}
        history = train_layer_at_frequency(
            model, X, layer="encoder", rho=RHO, checkpoint=tmp_path / "a.pt", **options
        )
        return bits(model), history.error

    with pytest.raises(StoppedError):
        run(stop_after(calls))
    resumed, error = run(stop_after(100))
    (tmp_path / "a-learn.pt").unlink()
    (tmp_path / "a-hold.pt").unlink()
    expected, whole = run(stop_after(100))
    assert same(resumed, expected)
    assert torch.equal(error, whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rho": 0.3}, r"a checkpoint of training with rho = 0\.15, got 0\.3"),
        ({"loss": lambda model, batch: model(batch).square().mean()}, "with loss = "),
        ({"model": made("tied", 1)}, "with model = Tied"),
        ({"x": X.split(100)}, "checkpoint needs x as a tensor"),
    ],
)
def test_the_checkpoint_of_another_call_is_refused(tmp_path, change, message):
    given = {"model": made("tied"), "x": X, "rho": RHO}
    options = {"layer": "encoder", "steps": 4, "checkpoint": tmp_path / "a.pt"}
    train_layer_at_frequency(**given, **options)
    given["model"] = made("tied")
    given |= change
    before = bits(given["model"])
    with pytest.raises(ValueError, match=message):
        train_layer_at_frequency(**given, **options)
    assert same(bits(given["model"]), before)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layer": "encode"}, ValueError, "did you mean 'encoder'"),
        ({"layer": "lstm", "model": made("lstm")}, ValueError, "a linear layer behind an LSTM"),
        ({"layer": "", "model": nn.Conv1d(1, 2, 3, bias=False)}, ValueError, "norm behind a conv"),
        ({"model": nn.Linear(16, 16), "layer": ""}, ValueError, "something behind it that learns"),
        (
            {"model": made("mlp"), "layer": "3"},
            ValueError,
            r"loss must be given .*\(128, 16\) to Tensor \(128, 3\)",
        ),
        ({"x": loader()}, ValueError, "loss must be given for batches that are of list"),
        ({"x": iter([X])}, TypeError, "go through again and again, got list_iterator"),
        ({"x": 3}, TypeError, "x must be a tensor, or batches .*, got int"),
        ({"x": []}, ValueError, "x must hold at least one batch"),
        ({"x": X / 0}, ValueError, "pre_activations must be finite"),
        ({"x": X[:3]}, ValueError, r"cannot be active on a share rho = 0\.15 of the 3 rows"),
        ({"x": X[:1].expand(50, 16)}, ValueError, "does not vary"),
        ({"rho": 1.0}, ValueError, "rho must lie strictly between 0 and 1"),
        ({"rho": torch.full((3,), 0.2)}, ValueError, "rho must broadcast against the units"),
        ({"steps": 3}, ValueError, "steps must be at least 4"),
        ({"weight": -1}, ValueError, "weight must be finite and at least 0"),
        ({"loss": lambda model, batch: model(batch)}, ValueError, r"of shape \(\), the batch"),
        ({"loss": lambda model, batch: torch.zeros(())}, RuntimeError, "'encoder' did not run"),
    ],
    ids=lambda each: "" if isinstance(each, dict) else str(each),
)
def test_what_is_wrong_is_said_and_the_model_left_alone(change, error, message):
    given = {"model": made("tied"), "x": X, "layer": "encoder", "rho": RHO, "steps": 7} | change
    before = bits(given["model"])
    with pytest.raises(error, match=message):
        train_layer_at_frequency(**given)
    assert same(bits(given["model"]), before)
    assert not any(part._forward_hooks for part in given["model"].modules())


def test_a_layer_that_keeps_its_bias_to_itself_is_warned_of():
    class Unbiased(nn.Linear):
        def forward(self, x):
            return x @ self.weight.T + 0 * self.bias

    model = nn.Sequential(Unbiased(16, 4), nn.ReLU(), nn.Linear(4, 16))
    with pytest.warns(RuntimeWarning, match=r"unit \d of '0' is 0\.\d+ away from rho"):
        train_layer_at_frequency(model, X, layer="0", rho=RHO, steps=4)


def test_the_bar_shows_the_worst_unit(capsys):
    history = train_layer_at_frequency(
        made("tied"), X, layer="encoder", rho=RHO, steps=14, progress=True
    )
    shown = capsys.readouterr().err
    assert shown.count(" 0/14") == shown.count("\n") == 1
    assert f"error {history.error[-1]:.3g}, worst unit 0.0" in shown.rpartition("\r")[2]


def test_a_dataset_may_be_larger_than_what_is_sorted(monkeypatch):
    monkeypatch.setattr("saetools.reuse.layer._MOST_VALUES", 500 * 24)
    model = made("tied")
    train_layer_at_frequency(model, X, layer="encoder", rho=RHO, steps=14)
    frequency, _ = frequency_and_loss("tied", model, X)
    assert 1.1 / len(X) < (frequency - RHO).abs().max() < 0.1
