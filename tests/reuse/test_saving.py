import copy
import json
import math
import os
import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from saetools import PostedAutoencoder, SparseAutoencoder, load, save

ABOUT = {"format": 1, "sizes": [4, 2], "output": "sigmoid", "dtype": "float32"}


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "output", [torch.sigmoid, torch.relu, torch.tanh, nn.Identity()], ids=lambda f: str(f)[:20]
)
def test_what_is_loaded_computes_the_same(tmp_path, output, dtype):
    model = SparseAutoencoder((7, 5, 3), output, seed=1).to(dtype)
    save(model, tmp_path / "a")
    back = load(str(tmp_path / "a"))
    assert type(back) is SparseAutoencoder
    assert back.sizes == (7, 5, 3)
    assert back.output is not output or not isinstance(output, nn.Module)
    assert same(state(back), state(model))
    x = torch.rand(4, 7, dtype=dtype)
    for one, other in zip(model(x), back(x), strict=True):
        assert torch.equal(one, other)
    assert back.training
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in back.parameters())
    back(x).reconstruction.sum().backward()


def test_the_library_itself_reads_and_describes_the_file(tmp_path):
    model = SparseAutoencoder((4, 2), torch.tanh, seed=0)
    save(model, tmp_path / "a")
    assert same(load_file(tmp_path / "a"), state(model))
    header = (tmp_path / "a").read_bytes()
    about = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
    assert json.loads(about["saetools"]) == ABOUT | {"output": "tanh"}


def test_a_loaded_model_goes_to_the_device_that_is_asked_for_or_the_default_one(tmp_path):
    save(SparseAutoencoder((4, 2)), tmp_path / "a")
    assert load(tmp_path / "a", device="meta").encoder[0].weight.is_meta
    with torch.device("meta"):
        assert load(tmp_path / "a").encoder[0].weight.is_meta
        assert not load(tmp_path / "a", device="cpu").encoder[0].weight.is_meta
    assert not load(tmp_path / "a").encoder[0].weight.is_meta


def test_a_default_device_changes_nothing(tmp_path):
    model = SparseAutoencoder((4, 2), seed=0)
    with torch.device("meta"):
        save(model, tmp_path / "a")
        back = load(tmp_path / "a", device="cpu")
    assert same(state(back), state(model))


def test_shared_memory_and_strides_do_not_matter(tmp_path):
    model = SparseAutoencoder((4, 2), seed=0)
    before = state(model)
    flat = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    nn.utils.vector_to_parameters(flat, model.parameters())  # views of one vector
    turned = model.encoder[0].weight
    turned.data = turned.data.T.contiguous().T
    save(model, tmp_path / "a")
    assert same(state(load(tmp_path / "a")), before)


def test_what_was_loaded_does_not_change_with_the_file(tmp_path):
    model = SparseAutoencoder((4, 2), seed=0)
    save(model, tmp_path / "a")
    back = load(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"\xff" * (tmp_path / "a").stat().st_size)
    assert same(state(back), state(model))


class Payload:
    """When unpickled, it makes a file."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return Path.touch, (self.proof,)


def bad_files(folder, proof):
    """Files that no model is in, by name."""
    good = folder / "good"
    save(SparseAutoencoder((4, 2), seed=0), good)
    tensors, data = load_file(good), good.read_bytes()

    def made(name, tensors=tensors, **changes):
        metadata = {"saetools": json.dumps(ABOUT | changes)}
        save_file(tensors, folder / name, metadata=metadata)

    (folder / "empty").touch()
    (folder / "random").write_bytes(torch.randint(256, (5000,)).to(torch.uint8).numpy().tobytes())
    (folder / "pickle").write_bytes(pickle.dumps({"encoder.0.weight": Payload(proof)}))
    torch.save({"encoder.0.weight": Payload(proof)}, folder / "torch")
    torch.save(tensors, folder / "torch weights")
    (folder / "half").write_bytes(data[: len(data) // 2])
    (folder / "longer").write_bytes(data + bytes(4))
    header = json.dumps({"a": {"dtype": "F\n32", "shape": [], "data_offsets": [0, 0]}}).encode()
    (folder / "lines").write_bytes(len(header).to_bytes(8, "little") + header)
    save_file(tensors, folder / "foreign")
    for name, text in {"open": "{", "deep": "[" * 100_000, "number": "3", "bare": "{}"}.items():
        save_file(tensors, folder / name, metadata={"saetools": text})
    made("newer", format=2)
    made("text", format="1")
    made("other sizes", {n: torch.ones(3, 3) for n in tensors})
    made("one too few", {n: t for n, t in tensors.items() if n != "decoder.0.bias"})
    made("one too many", tensors | {"a": torch.ones(2)})
    made("other names", {n + "\n": t for n, t in tensors.items()})
    made("whole numbers", {n: t.long() for n, t in tensors.items()})
    made("halves", {n: t.half() for n, t in tensors.items()})
    for value in (math.nan, math.inf):
        made(str(value), tensors | {"encoder.0.bias": torch.tensor([0.0, value])})
    good.unlink()
    return sorted(folder.iterdir())


def test_bad_files_are_refused_in_one_line_and_nothing_is_executed(tmp_path):
    folder, proof = tmp_path / "files", tmp_path / "proof"
    folder.mkdir()
    paths = bad_files(folder, proof)
    assert len(paths) == 23
    for path in paths:
        with pytest.raises(ValueError, match=r".") as caught:
            load(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
    assert not proof.exists()
    pickle.loads((folder / "pickle").read_bytes())
    assert proof.exists()  # the trap would have shown


def test_every_truncation_is_refused_in_one_line(tmp_path):
    save(SparseAutoencoder((2, 1), seed=0), tmp_path / "a")
    data = (tmp_path / "a").read_bytes()
    for length in range(len(data)):
        (tmp_path / "cut").write_bytes(data[:length])
        with pytest.raises(ValueError, match="cut is no complete safetensors file: ") as caught:
            load(tmp_path / "cut")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"sizes": None},
        {"sizes": 4},
        {"sizes": [4]},
        {"sizes": [4, -2]},
        {"sizes": [4, 2.5]},
        {"sizes": "42"},
        {"sizes": [10**12, 10**12]},
        {"sizes": [10**30, 2]},
        {"sizes": [4, 2, 2]},
        {"output": "os.system"},
        {"output": ["relu"]},
        {"output": None},
        {"dtype": "load"},
        {"dtype": "nothing"},
        {"dtype": "int64"},
        {"dtype": 3},
    ],
    ids=str,
)
def test_a_description_that_makes_no_model_is_refused_in_one_line(tmp_path, change):
    metadata = {"saetools": json.dumps(ABOUT | change)}
    save_file(state(SparseAutoencoder((4, 2), seed=0)), tmp_path / "a", metadata=metadata)
    with pytest.raises(ValueError, match="a must be a SparseAutoencoder with") as caught:
        load(tmp_path / "a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        (None, {}, r"format 1, got None: update saetools, .*use safetensors\.torch\.load_model"),
        ({"format": 2}, {}, "must be of saetools' format 1, got 2: update saetools"),
        ({"dtype": "half"}, {}, r"a Sp.* again \(TypeError, weights of .*not torch.float16"),
        ({}, {"encoder.0.bias": torch.ones(3)}, "save the model again .* encoder.0.bias: .*3"),
        ({}, {"a": torch.ones(3)}, 'save the model again .* Unexpected key.* "a"'),
        ({}, {"encoder.0.bias": torch.tensor([0, math.nan])}, r"0\.bias in .*a must be finite"),
    ],
)  # fmt: skip
def test_the_errors_say_what_is_wrong_and_what_to_do(tmp_path, metadata, tensors, message):
    if metadata is not None:
        metadata = {"saetools": json.dumps(ABOUT | metadata)}
    tensors = state(SparseAutoencoder((4, 2), seed=0)) | tensors
    save_file(tensors, tmp_path / "a", metadata=metadata)
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / "a")
    assert str(tmp_path / "a") in str(caught.value)


def test_a_missing_file_and_a_folder_are_what_the_system_says(tmp_path):
    model = SparseAutoencoder((4, 2))
    with pytest.raises(FileNotFoundError, match="none"):
        load(tmp_path / "none")
    folder_error = PermissionError if os.name == "nt" else IsADirectoryError
    with pytest.raises(folder_error, match=tmp_path.name):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        save(model, tmp_path / "no folder" / "a")
    for path in (None, 3):
        for function in (load, lambda path: save(model, path)):
            with pytest.raises(TypeError, match=type(path).__name__):
                function(path)


def test_without_safetensors_the_extra_is_named(tmp_path, monkeypatch):
    save(SparseAutoencoder((4, 2)), tmp_path / "a")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    for function in (load, lambda path: save(SparseAutoencoder((4, 2)), path)):
        with pytest.raises(ImportError, match="pip install safetensors"):
            function(tmp_path / "a")


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    save(SparseAutoencoder((4, 2), seed=0), tmp_path / "a")
    before = (tmp_path / "a").read_bytes()

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        save(SparseAutoencoder((4, 2), seed=1), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_not_saved_and_the_old_file_stays(tmp_path, value):
    model = SparseAutoencoder((4, 2), seed=0)
    save(model, tmp_path / "a")
    before = (tmp_path / "a").read_bytes()
    with torch.no_grad():
        model.decoder[0].bias[3] = value
    with pytest.raises(ValueError, match=r"decoder.0.bias in model must be finite, got .* \(3,\)"):
        save(model, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == before


@pytest.mark.parametrize(
    "output", [lambda x: x, nn.functional.relu, nn.Softplus(), nn.Linear(4, 4)]
)
def test_an_output_function_without_a_name_is_refused(tmp_path, output):
    model = SparseAutoencoder((4, 2), output)
    with pytest.raises(
        ValueError, match=r"output must be one of sigmoid, relu, .* use safetensors"
    ):
        save(model, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def tie(model):
    model.decoder[0].weight = model.encoder[0].weight


def replace(model):
    model.encoder[0] = nn.Linear(4, 4, bias=False)


def widen(model):
    model.decoder[0].double()


def add(model):
    model.register_buffer("mean", torch.zeros(4))


@pytest.mark.parametrize("change", [tie, replace, widen, add])
def test_a_model_that_its_sizes_do_not_describe_is_refused(tmp_path, change):
    model = SparseAutoencoder((4, 4))
    change(model)
    with pytest.raises(
        ValueError,
        match=r"model must be a SparseAutoencoder with the layers that its sizes say, none of them "
        r"shared: use safetensors\.torch\.save_model \(",
    ):
        save(model, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("other", [{}, nn.Linear(2, 2), PostedAutoencoder(seed=0)])
def test_what_is_no_sparse_autoencoder_is_shown_another_way(tmp_path, other):
    with pytest.raises(
        TypeError, match=r"must be a SparseAutoencoder, got \w+: use safetensors\.torch\.save_model"
    ):
        save(other, tmp_path / "a")


def test_saving_leaves_the_model_as_it_was(tmp_path):
    model = SparseAutoencoder((4, 2), seed=0).eval()
    before, random, twin = state(model), torch.get_rng_state(), copy.deepcopy(model)
    model.encoder[0].weight.requires_grad_(False)
    save(model, tmp_path / "a")
    assert same(before, state(model))
    assert not model.training
    assert not model.encoder[0].weight.requires_grad
    assert model.encoder[0].weight.stride() == twin.encoder[0].weight.stride()
    load(tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), random)


def test_the_same_model_gives_the_same_file(tmp_path):
    for name in "ab":
        save(SparseAutoencoder(seed=0), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
