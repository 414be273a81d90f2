import subprocess
import sys

import pytest
import torch
from notebook_tools import ROOT

from saetools import FrequencyThreshold, Output, PostedAutoencoder, SparseAutoencoder, train


def test_widths_of_the_forum_post_and_shapes():
    model = SparseAutoencoder(seed=0)
    widths = [(layer.in_features, layer.out_features) for layer in (*model.encoder, *model.decoder)]
    assert widths == [(20, 80), (80, 40), (40, 4), (4, 40), (40, 80), (80, 20)]
    output = model(torch.rand(3, 7, 20))
    assert output.reconstruction.shape == (3, 7, 20)
    assert output.latents.shape == output.pre_activations.shape == (3, 7, 4)


def test_output_is_what_its_names_say():
    model, x = SparseAutoencoder(seed=0), torch.rand(9, 20)
    output = model(x)
    assert torch.equal(output.latents, output.pre_activations.clamp(min=0))
    assert torch.equal(output.pre_activations, model.encode(x))
    assert torch.equal(output.reconstruction, model.decode(output.latents))
    assert (output.pre_activations < 0).any()  # no ReLU in front of the code


def test_code_inputs_are_what_the_codes_layer_is_given():
    model, x = SparseAutoencoder(seed=0), torch.rand(3, 9, 20)
    given = []
    hook = model.encoder[-1].register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    z = model.encode(x)
    hook.remove()
    inputs = model.code_inputs(x)
    assert inputs.shape == (3, 9, 40)
    assert torch.equal(inputs, given[0])
    assert torch.equal(inputs, model.encoder[1](model.encoder[0](x).relu()).relu())
    assert torch.equal(model.encoder[-1](inputs), z)
    assert SparseAutoencoder((20, 4), seed=0).code_inputs(x) is x  # no layer in front of the code


def test_the_output_function_is_the_only_difference_to_the_posted_network():
    posted, sigmoid = PostedAutoencoder(seed=3), SparseAutoencoder(seed=3)
    for a, b in zip(posted.parameters(), sigmoid.parameters(), strict=True):
        assert torch.equal(a, b)
    linear = SparseAutoencoder(output=lambda x: x, seed=3)(torch.rand(5, 20))
    assert (linear.reconstruction < 0).any()


def test_a_seed_fixes_the_weights_and_leaves_the_global_state_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second = SparseAutoencoder(seed=1), SparseAutoencoder(seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.encoder[0].weight, second.encoder[0].weight)
    assert not torch.equal(first.encoder[0].weight, SparseAutoencoder(seed=2).encoder[0].weight)


def test_without_a_seed_it_draws_as_torch_does():
    torch.manual_seed(5)
    expected = torch.nn.Linear(20, 80).weight
    torch.manual_seed(5)
    assert torch.equal(SparseAutoencoder().encoder[0].weight, expected)


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ((20,), ValueError, r"sizes must hold at least two widths, got \(20,\)"),
        ((20, 0, 4), ValueError, "sizes must be at least 1, got 0"),
        ((20, 4.5), TypeError, "sizes must be an int, got 4.5"),
    ],
)
def test_bad_sizes_are_refused(sizes, error, message):
    with pytest.raises(error, match=message):
        SparseAutoencoder(sizes)


def test_the_device_is_asked_for_or_torchs_default():
    def device(**where):
        return {weight.device.type for weight in SparseAutoencoder(seed=0, **where).parameters()}

    assert device() == device(device="cpu") == {"cpu"}
    assert device(device="meta") == {"meta"}
    with torch.device("meta"):
        assert device() == {"meta"}
        assert device(device="cpu") == {"cpu"}


def test_rows_of_another_width_are_refused():
    for x in (torch.rand(5, 19), torch.rand(2, 5, 21), torch.rand(20, 5), torch.rand(())):
        with pytest.raises(ValueError, match=r"x must have 20 columns, got shape \("):
            SparseAutoencoder(seed=0)(x)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sizes": (20, 4), "output": torch.nn.Identity(), "centred": True},
        {"sizes": (20, 4), "unit_norm_decoder": True, "activation": FrequencyThreshold(4, rho=0.2)},
    ],
)
def test_a_trained_model_is_exported_saved_and_loaded(settings, tmp_path):
    model, x = SparseAutoencoder(**settings, seed=0), torch.rand(64, 20)
    train(model, x, steps=3)
    model.eval()
    rows = {"x": {0: torch.export.Dim("rows")}}
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=rows), tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for batch in (x, x[:5]):
        output = loaded(batch)
        assert type(output) is Output
        for one, other in zip(output, model(batch), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.slow
def test_a_type_checker_knows_what_a_model_returns(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "from typing import assert_type\n"
        "import torch\n"
        "from saetools import Output, PostedAutoencoder, SparseAutoencoder\n"
        "assert_type(SparseAutoencoder()(torch.rand(5, 20)), Output)\n"
        "assert_type(PostedAutoencoder()(torch.rand(5, 20)).latents, torch.Tensor)\n"
        "SparseAutoencoder()('rows')\n"
    )
    mypy = [sys.executable, "-m", "mypy", "--no-error-summary", str(program)]
    done = subprocess.run(mypy, capture_output=True, text=True, cwd=ROOT)  # where its settings are
    [said] = done.stdout.splitlines()
    assert "program.py:6: error: Argument 1" in said
    assert 'has incompatible type "str"; expected "Tensor"' in said
