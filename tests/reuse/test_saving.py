import copy
import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from saetools import PostedAutoencoder, SparseAutoencoder, load, load_into, save


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a
    )


def network():
    """A researcher's own: convolutions, a running mean, a mask of infinities, shared weights."""
    model = nn.Sequential(nn.Conv2d(3, 5, 2), nn.BatchNorm2d(5), nn.Linear(4, 4), nn.Linear(4, 4))
    model[3].weight = model[2].weight
    model.register_buffer("mask", torch.full((2, 2), -math.inf).triu(1))
    model(torch.rand(2, 3, 5, 5))
    return model.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "output", [torch.sigmoid, torch.relu, torch.tanh, nn.Identity()], ids=lambda f: str(f)[:20]
)
def test_what_is_loaded_computes_the_same(tmp_path, output, dtype):
    model = SparseAutoencoder((7, 5, 3), output, seed=1).to(dtype)
    save(model, tmp_path / "a")
    back = load(tmp_path / "a")
    assert type(back) is SparseAutoencoder
    assert back.sizes == (7, 5, 3)
    assert same(state(back), state(model))
    x = torch.rand(4, 7, dtype=dtype)
    for one, other in zip(model(x), back(x), strict=True):
        assert torch.equal(one, other)
    assert back.training
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in back.parameters())
    back(x).reconstruction.sum().backward()


def test_a_loaded_model_goes_to_the_device_that_is_asked_for_or_the_default_one(tmp_path):
    save(SparseAutoencoder((4, 2)), tmp_path / "a")
    assert load(tmp_path / "a", device="meta").encoder[0].weight.is_meta
    with torch.device("meta"):
        assert load(tmp_path / "a").encoder[0].weight.is_meta
        assert not load(tmp_path / "a", device="cpu").encoder[0].weight.is_meta
    assert not load(tmp_path / "a").encoder[0].weight.is_meta


def test_any_module_is_filled(tmp_path):
    model, other = network(), network()
    learned = [id(parameter) for parameter in other.parameters()]
    save(model, tmp_path / "a")
    assert not same(state(model), state(other))
    assert load_into(other, tmp_path / "a") is other
    assert same(state(model), state(other))
    assert [id(parameter) for parameter in other.parameters()] == learned
    assert other[3].weight is other[2].weight
    assert other[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_subclass_is_filled_and_not_made(tmp_path):
    model, other = PostedAutoencoder(seed=0), PostedAutoencoder(seed=1)
    save(model, tmp_path / "a")
    with pytest.raises(ValueError, match=r"got 'PostedAutoencoder': make one, and call load_into"):
        load(tmp_path / "a")
    load_into(other, tmp_path / "a")
    assert same(state(model), state(other))


class Payload:
    """When unpickled, it makes a file."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return Path.touch, (self.proof,)


def bad_files(folder, proof):
    """Files that no model is in, by name."""
    whole = folder / "whole"
    save(SparseAutoencoder((4, 2), seed=0), whole)
    tensors, data = load_file(whole), whole.read_bytes()
    about = {"format": 1, "kind": "model", "class": "SparseAutoencoder", "sizes": [4, 2]}
    about |= {"output": "sigmoid", "dtype": "float32"}

    def made(name, tensors=tensors, **changes):
        save_file(tensors, folder / name, metadata={"saetools": json.dumps(about | changes)})

    (folder / "empty").touch()
    (folder / "random").write_bytes(torch.randint(256, (5000,)).to(torch.uint8).numpy().tobytes())
    (folder / "pickle").write_bytes(pickle.dumps({"encoder.0.weight": Payload(proof)}))
    torch.save({"encoder.0.weight": Payload(proof)}, folder / "torch")
    torch.save(tensors, folder / "torch weights")
    (folder / "truncated").write_bytes(data[:-1])
    (folder / "half").write_bytes(data[: len(data) // 2])
    (folder / "longer").write_bytes(data + bytes(4))
    save_file(tensors, folder / "foreign")
    made("newer", format=2)
    made("checkpoint", kind="checkpoint")
    made("other sizes", {n: torch.ones(3, 3) for n in tensors})
    made("one too few", {n: t for n, t in tensors.items() if n != "decoder.0.bias"})
    made("one too many", tensors | {"a": torch.ones(2)})
    made("other names", {n + "\n": t for n, t in tensors.items()})
    made("whole numbers", {n: t.long() for n, t in tensors.items()})
    made("halves", {n: t.half() for n, t in tensors.items()})
    for value in (math.nan, math.inf):
        made(str(value), tensors | {"encoder.0.bias": torch.tensor([0.0, value])})
    return sorted(file.name for file in folder.iterdir() if file != whole)


def only_for_load(folder):
    """Files that fill a module, and do not say how to make one."""
    tensors = state(SparseAutoencoder((4, 2), seed=0))
    about = {"format": 1, "kind": "model", "class": "SparseAutoencoder", "sizes": [4, 2]}
    about |= {"output": "sigmoid", "dtype": "float32"}
    for i, change in enumerate(
        [
            {"class": None},
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
        ]
    ):
        metadata = {"saetools": json.dumps(about | change)}
        save_file(tensors, folder / f"{i} {change}", metadata=metadata)
    return sorted(file.name for file in folder.iterdir())


def test_bad_files_are_refused_in_one_line_nothing_is_executed_and_no_weight_changes(tmp_path):
    folder, proof = tmp_path / "files", tmp_path / "proof"
    folder.mkdir()
    names = bad_files(folder, proof)
    assert len(names) == 19
    model, own = SparseAutoencoder((4, 2), seed=5), nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 4))
    for name in names:
        for target in (None, model, own):
            before = state(target or model)
            with pytest.raises(ValueError, match=r".") as caught:
                load(folder / name) if target is None else load_into(target, folder / name)
            assert "\n" not in str(caught.value)
            assert name.split()[0] in str(caught.value)
            assert same(before, state(target or model))
    assert not proof.exists()
    pickle.loads((folder / "pickle").read_bytes())
    assert proof.exists()  # the trap would have shown


def test_a_description_that_makes_no_model_is_refused_in_one_line(tmp_path):
    for name in only_for_load(tmp_path):
        with pytest.raises(ValueError, match=r"say how|fit the model|got None: make one") as caught:
            load(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_the_errors_say_what_differs(tmp_path):
    save(SparseAutoencoder((4, 2), seed=0), tmp_path / "a")
    for model, message in (
        (SparseAutoencoder((4, 3)), r"'decoder.0.weight' is \(4, 2\) of torch.float32 in the file, "
         r"\(4, 3\) of torch.float32 in the model, and 2 more"),
        (SparseAutoencoder((4, 2)).double(), r"is \(4,\) of torch.float32 in the file, \(4,\) of "
         r"torch.float64 in the model, and 3 more"),
        (nn.Linear(4, 2), r"'bias' is nothing in the file, \(2,\) of torch.float32 in the model"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"does not fit the model: .*" + message):
            load_into(model, tmp_path / "a")


def test_weights_that_a_model_shares_must_be_equal_in_the_file(tmp_path):
    apart, tied = (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for _ in range(2))
    tied[1].weight = tied[0].weight
    before = state(tied)
    save(apart, tmp_path / "a")
    with pytest.raises(ValueError, match=r"shares 0.weight and 1.weight: they differ"):
        load_into(tied, tmp_path / "a")
    assert same(before, state(tied))
    save(tied, tmp_path / "a")
    load_into(apart, tmp_path / "a")
    assert same(state(apart), before)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_not_saved_and_the_old_file_stays(tmp_path, value):
    model = SparseAutoencoder((4, 2), seed=0)
    save(model, tmp_path / "a")
    before = (tmp_path / "a").read_bytes()
    with torch.no_grad():
        model.decoder[0].bias[3] = value
    with pytest.raises(ValueError, match=r"decoder.0.bias must be finite, got -?\w+ at \(3,\)"):
        save(model, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == before


def test_a_buffer_may_be_infinite_and_not_nan(tmp_path):
    model = network()
    save(model, tmp_path / "a")
    model.mask[0, 0] = math.nan
    with pytest.raises(ValueError, match="mask must not hold NaN"):
        save(model, tmp_path / "b")
    save_file(
        {name: value.contiguous().clone() for name, value in model.state_dict().items()},
        tmp_path / "b",
        metadata={"saetools": json.dumps({"format": 1, "kind": "model"})},
    )
    with pytest.raises(ValueError, match=r"mask in .*b must not hold NaN"):
        load_into(network(), tmp_path / "b")


@pytest.mark.parametrize(
    "output", [lambda x: x, nn.functional.relu, nn.Softplus(), nn.Linear(4, 4)]
)
def test_an_output_function_without_a_name_is_refused(tmp_path, output):
    model = SparseAutoencoder((4, 2), output)
    with pytest.raises(ValueError, match=r"output must be torch.sigmoid, .* to be saved by name"):
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
        ValueError, match=r"layers that its sizes \(4, 4\) say, none of them shared"
    ):
        save(model, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"anything": 1}


def test_what_is_no_module_or_no_tensor_is_refused(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(TypeError, match="model must keep tensors alone, got dict in _extra_state"):
        save(Extra(2, 2), path)
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got dict"):
        save({}, path)
    save(nn.Linear(2, 2), path)
    with pytest.raises(TypeError, match="model must keep tensors alone, got dict in _extra_state"):
        load_into(Extra(2, 2), path)
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got str"):
        load_into("model", path)


def test_saving_leaves_the_model_as_it_was(tmp_path):
    model = network()
    before, twin = state(model), copy.deepcopy(model)
    model[0].weight.requires_grad_(False)
    save(model, tmp_path / "a")
    assert same(before, state(model))
    assert not model[0].weight.requires_grad
    assert model[0].weight.stride() == twin[0].weight.stride()


def test_the_same_model_gives_the_same_file(tmp_path):
    for name in "ab":
        save(SparseAutoencoder(seed=0), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
