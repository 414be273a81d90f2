import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint

from saetools import Capture, frequency_penalty

HOOKS = [name for name in vars(nn.Module()) if "hooks" in name]


class Model(nn.Module):
    def __init__(self, *, inplace=False):
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Linear(6, 5), nn.ReLU(inplace=inplace), nn.Linear(5, 4), nn.ReLU(inplace=inplace))
        )
        self.decoder = nn.Linear(4, 6)

    def forward(self, x):
        return self.decoder(self.encoder(x))


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def x():
    return torch.randn(10, 6)


def hooks_on(model):
    return [getattr(module, name) for module in model.modules() for name in HOOKS]


def test_outputs_are_those_of_the_layers_with_their_gradient(model, x):
    with Capture(model, "encoder.0", "encoder.2") as captured:
        output = model(x)
    first = model.encoder[0](x)
    second = model.encoder[2](first.relu())
    assert captured.layers == ("encoder.0", "encoder.2")
    assert torch.equal(captured["encoder.0"], first)
    assert torch.equal(captured["encoder.2"], second)
    assert torch.equal(output, model.decoder(second.relu()))
    got, expected = (
        torch.autograd.grad(frequency_penalty(z, rho=0.2), list(model.encoder.parameters()))
        for z in (captured["encoder.2"], second)
    )
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)


def test_a_permanent_one_gives_the_latest_call_until_it_is_removed(model, x):
    captured = Capture(model, "encoder.2")
    for batch in (x, 2 * x[:3]):
        model(batch)
        assert torch.equal(captured["encoder.2"], model.encoder[:3](batch))
    captured.remove()
    model(x)
    assert len(captured["encoder.2"]) == 3
    captured.remove()  # once more does no harm


def test_the_model_itself_has_the_empty_name(x):
    layer = nn.Linear(6, 4)
    with Capture(layer, "") as captured:
        layer(x)
    assert torch.equal(captured[""], layer(x))


def test_the_computation_is_the_same_to_the_bit(model, x):
    def step():
        model.zero_grad()
        model(x).square().mean().backward()
        return [parameter.grad for parameter in model.parameters()]

    plain = step()
    with Capture(model, "encoder.0", "encoder.2", "decoder"):
        captured = step()
    assert all(map(torch.equal, plain, captured))


@pytest.mark.parametrize("fails", ["nowhere", "in the block", "in the model"])
def test_nothing_is_left_on_the_model(model, x, fails):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = set(vars(model))

    def block():
        with Capture(model, "encoder.0", "encoder.2", "", "encoder"):
            model(x[:, :3] if fails == "in the model" else x)
            if fails == "in the block":
                raise KeyError

    if fails == "nowhere":
        block()
    else:
        with pytest.raises((KeyError, RuntimeError)):
            block()
    assert not any(hooks_on(model))
    assert set(vars(model)) == attributes
    assert list(model.state_dict()) == list(before)
    for copied in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(map(torch.equal, copied.state_dict().values(), before.values()))
        assert torch.equal(copied(x), model(x))


def test_hooks_of_others_stay(model, x):
    seen = []
    model.encoder[2].register_forward_hook(lambda *_: seen.append(1))
    with Capture(model, "encoder.2"):
        model(x)
    model(x)
    assert len(seen) == 2


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_captured_model_is_not_captured(model, x, copied):
    seen = []
    captured = Capture(model, "encoder.2", select=lambda output: seen.append(1) or output)
    model(x)
    z = captured["encoder.2"]
    other = copied(model)  # neither z, which is no leaf, nor the lambda could be copied along
    output = other(2 * x)
    assert captured["encoder.2"] is z
    assert seen == [1]
    captured.remove()
    assert torch.equal(output, model(2 * x))
    assert not any(hooks_on(model))


def test_a_call_that_fails_does_not_leave_the_next_one_astray(model, x):
    captured = Capture(model, "encoder.0")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(x[:, :3])
    model.encoder(x)  # by itself: not of the call that failed
    with pytest.raises(RuntimeError, match=r"'encoder\.0' did not run"):
        captured["encoder.0"]
    model(x)
    assert len(captured["encoder.0"]) == 10


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ((), ValueError, "layers must name at least one module of the model, got none"),
        ((["encoder.0"],), TypeError, r"layers must be names, each a str, got list"),
        ((2,), TypeError, "layers must be names, .*, got int"),
        (("encoder.4",), ValueError, r"got 'encoder\.4': did you mean .*'encoder\.2'.*\? It has"),
        (
            ("encodr",),
            ValueError,
            r"got 'encodr': did you mean 'encoder'.* 'encoder\.3', 'decoder'",
        ),
        (("2",), ValueError, r"got '2': did you mean 'encoder\.2'\? It has 'encoder', "),
        (("zzzzzz",), ValueError, "got 'zzzzzz': It has 'encoder'"),
        (("encoder.0", "zzzzzz"), ValueError, "got 'zzzzzz'"),
    ],
)
def test_names_that_are_none_are_refused_and_leave_no_hook(model, layers, error, message):
    with pytest.raises(error, match=message):
        Capture(model, *layers)
    assert not any(hooks_on(model))


def test_a_long_list_of_names_is_cut():
    with pytest.raises(ValueError, match="'18', '19' and 80 more"):
        Capture(nn.Sequential(*(nn.ReLU() for _ in range(100))), "fc")


def test_other_arguments_are_checked(model):
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got method"):
        Capture(model.forward, "encoder.0")
    with pytest.raises(TypeError, match="select must be a function, got int"):
        Capture(model, "encoder.0", select=0)


def test_reading_what_is_not_there_is_an_error(model, x):
    captured = Capture(model, "encoder.0", "encoder.2")
    with pytest.raises(RuntimeError, match=r"'encoder\.0' did not run in the model's latest call"):
        captured["encoder.0"]
    model.encoder(x)
    model.forward(x)
    with pytest.raises(RuntimeError, match=r"Neither model\.forward"):
        captured["encoder.0"]
    model.encoder[2] = nn.Identity()  # what was hooked is there no more
    model.decoder = nn.Linear(5, 6)
    model(x)
    assert captured["encoder.0"].shape == (10, 5)
    with pytest.raises(RuntimeError, match=r"'encoder\.2' did not run in the model's latest call"):
        captured["encoder.2"]
    with pytest.raises(KeyError, match=r"'decoder' is not captured, but 'encoder\.0', 'encoder\.2"):
        captured["decoder"]


def test_a_layer_that_runs_twice_is_never_overwritten(x):
    shared = nn.Linear(6, 6)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    with Capture(model, "0", "2", "1") as captured:  # two names of one module
        output = model(x)
    for name in ("0", "2"):
        with pytest.raises(RuntimeError, match=rf"'{name}' ran 2 times .*: runs\('{name}'\) gives"):
            captured[name]
        first, second = captured.runs(name)
        assert torch.equal(first, shared(x))
        assert torch.equal(second, output)
    assert len(captured.runs("1")) == 1
    with pytest.raises(KeyError, match="is not captured"):
        captured.runs("3")


def test_a_name_given_twice_is_captured_once(model, x):
    with Capture(model, "encoder.0", "encoder.0") as captured:
        model(x)
    assert captured.layers == ("encoder.0",)
    assert captured["encoder.0"].shape == (10, 5)


def test_of_an_output_that_is_no_tensor_the_part_to_take_is_said(x):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(6, 4, batch_first=True)

        def forward(self, x):
            return self.lstm(x)[0]

    model, sequences = Reader(), x[None]
    with (
        pytest.raises(
            TypeError, match=r"'lstm' must be a torch\.Tensor, got tuple: .* select=lambda"
        ),
        Capture(model, "lstm"),
    ):
        model(sequences)
    with (
        pytest.raises(TypeError, match=r"what is taken of layer 'lstm' .* got tuple: say what"),
        Capture(model, "lstm", select=lambda returned: returned[1]),
    ):
        model(sequences)
    with Capture(model, "lstm", select=lambda returned: returned[0]) as captured:
        output = model(sequences)
    assert torch.equal(captured["lstm"], output)


def test_of_a_packed_sequence_the_rows_can_be_taken():
    lstm = nn.LSTM(3, 4, batch_first=True)
    packed = pack_padded_sequence(torch.randn(2, 5, 3), torch.tensor([5, 2]), batch_first=True)
    with Capture(lstm, "", select=lambda returned: returned[0].data) as captured:
        lstm(packed)
    assert captured[""].shape == (7, 4)


@pytest.mark.parametrize("activation", [nn.ReLU(inplace=True), nn.SiLU(inplace=True), torch.relu_])
def test_an_activation_in_place_does_not_overwrite_what_was_captured(x, activation):
    class Inplace(nn.Module):
        def __init__(self):
            super().__init__()
            self.code = nn.Linear(6, 4)

        def forward(self, x):
            return activation(self.code(x))

    model = Inplace()
    with Capture(model, "code") as captured:
        output = model(x)
    z = captured["code"]
    assert torch.equal(z, model.code(x))
    assert (z < 0).any()
    (output.square().mean() + frequency_penalty(z, rho=0.2)).backward()
    got, leaf = model.code.weight.grad, model.code(x)
    loss = activation(leaf.clone()).square().mean() + frequency_penalty(leaf, rho=0.2)
    torch.testing.assert_close(got, torch.autograd.grad(loss, model.code.weight)[0])


def test_the_last_calls_graph_is_released_when_the_next_begins(model, x):
    captured = Capture(model, "encoder.0", "encoder.2")
    model(x)
    latest = [weakref.ref(captured[name]) for name in captured.layers]
    alive = []
    model.encoder[0].register_forward_pre_hook(lambda *_: alive.extend(ref() for ref in latest))
    model(x)
    assert alive == [None, None]


@pytest.mark.parametrize("removed", [False, True])
def test_neither_holds_the_other(model, x, removed):
    gc.disable()  # what only the collector frees would hold its graph until it comes
    try:
        captured = Capture(model, "encoder.2")
        model(x)
        if removed:
            captured.remove()
            output = weakref.ref(captured["encoder.2"])
            del captured
            assert output() is None
        here = weakref.ref(model.encoder[2])
        model.encoder = None
        assert here() is None
    finally:
        gc.enable()


class Around(nn.Module):
    """As DataParallel and DistributedDataParallel wrap a model."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


@pytest.fixture
def alone():
    """A process group of one."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "wrap", [Around, nn.DataParallel, nn.parallel.DistributedDataParallel], ids=lambda w: w.__name__
)
def test_a_wrapped_model_is_captured_from_the_outside_and_the_inside(model, x, wrap, request):
    if wrap is nn.parallel.DistributedDataParallel:
        request.getfixturevalue("alone")
    if wrap is nn.DataParallel and torch.cuda.is_available():
        pytest.skip("DataParallel wants its model on the GPU")
    inside = Capture(model, "encoder.2")
    wrapped = wrap(model)
    outside = Capture(wrapped, "module.encoder.2")
    with pytest.raises(ValueError, match=r"did you mean .*'module\.encoder\.2'"):
        Capture(wrapped, "encoder.2")
    output = wrapped(x)
    assert torch.equal(inside["encoder.2"], outside["module.encoder.2"])
    (output.square().mean() + frequency_penalty(outside["module.encoder.2"], rho=0.2)).backward()
    got = [parameter.grad for parameter in model.parameters()]
    z = model.encoder[:3](x)
    loss = model(x).square().mean() + frequency_penalty(z, rho=0.2)
    expected = torch.autograd.grad(loss, list(model.parameters()))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_replicas_that_share_the_hooks_are_not_taken_for_one_run(model, x):
    class Replicated(Around):
        def forward(self, x):
            return torch.cat([self.module(half) for half in x.chunk(2)])

    wrapped = Replicated(model)
    with Capture(wrapped, "module.encoder.2") as captured:
        wrapped(x)
    with pytest.raises(RuntimeError, match="ran 2 times"):
        captured["module.encoder.2"]
    assert torch.equal(torch.cat(captured.runs("module.encoder.2")), model.encoder[:3](x))


@pytest.fixture
def compiled():
    torch.compiler.reset()
    yield lambda model, backend="eager": torch.compile(model, backend=backend, fullgraph=True)
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("inside", [False, True])
def test_a_compiled_model_is_captured_in_one_graph(x, compiled, inside):
    model = Model(inplace=True)
    if inside:
        captured = Capture(model, "encoder.2")
        fast = compiled(model, "aot_eager")
    else:
        fast = compiled(model, "aot_eager")
        captured = Capture(fast, "_orig_mod.encoder.2")
    [name] = captured.layers
    for batch in (x, 2 * x):
        fast(batch)  # a break of the graph would raise
        z = model.encoder[2](model.encoder[0](batch).relu())
        torch.testing.assert_close(captured[name], z)
        got, expected = (
            torch.autograd.grad(frequency_penalty(one, rho=0.2), model.encoder[0].weight)[0]
            for one in (captured[name], z)
        )
        torch.testing.assert_close(got, expected)
    captured.remove()
    latest = captured[name]
    fast(x)
    assert captured[name] is latest


@pytest.mark.slow
def test_a_whole_step_is_compiled_in_one_graph(model, x, compiled):
    captured = Capture(model, "encoder.2")

    def loss(x):
        output = model(x)
        return (output - x).square().mean() + frequency_penalty(captured["encoder.2"], rho=0.2)

    torch.testing.assert_close(compiled(loss)(x), loss(x))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["inside", "outside", "in place"])
def test_a_compiled_model_that_cannot_see_a_late_capture_is_not_silent(model, x, compiled, where):
    if where == "in place":
        model.compile(backend="eager", fullgraph=True)
        fast = model
    else:
        fast = compiled(model)
    fast(x)
    captured = Capture(
        *((fast, "_orig_mod.encoder.2") if where == "outside" else (model, "encoder.2"))
    )
    fast(x)
    try:
        captured[captured.layers[0]]  # torch 2.4 sees it, torch 2.13 does not
    except RuntimeError as error:
        assert "call torch.compiler.reset()" in str(error)  # noqa: PT017
        torch.compiler.reset()
        fast(x)
    assert captured[captured.layers[0]].shape == (10, 4)


class Checkpointed(Model):
    reentrant = False

    def forward(self, x):
        return self.decoder(checkpoint(self.encoder, x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("select", [None, torch.tanh])  # tanh keeps its result for backward
def test_a_checkpoints_second_run_is_not_a_second_output(x, select):
    model = Checkpointed()
    with Capture(model, "encoder.2", select=select) as captured:
        output = model(x)
        z = captured["encoder.2"]
        (output.square().mean() + frequency_penalty(z, rho=0.2)).backward()
        assert captured["encoder.2"] is z
    got = [parameter.grad for parameter in model.parameters()]
    z = model.encoder[:3](x)
    z = z if select is None else select(z)
    loss = model(x).square().mean() + frequency_penalty(z, rho=0.2)
    expected = torch.autograd.grad(loss, list(model.parameters()))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_layer_without_a_gradient_in_a_call_with_one_is_not_silent(x):
    model = Checkpointed()
    model.reentrant = True
    captured = Capture(model, "encoder.2")
    model(x.requires_grad_())
    with pytest.raises(RuntimeError, match=r"ran without a gradient .* use_reentrant=False"):
        captured["encoder.2"]
    with torch.no_grad():
        assert captured["encoder.2"].shape == (10, 4)
        model(x)
    assert not captured["encoder.2"].requires_grad  # a look at a model that is not trained


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_output_is_half_and_the_penalty_single(model, x, dtype):
    with torch.autocast("cpu", dtype=dtype), Capture(model, "encoder.2") as captured:
        model(x)
        penalty = frequency_penalty(captured["encoder.2"], rho=0.2)
    assert captured["encoder.2"].dtype == dtype
    assert penalty.dtype == torch.float32
    penalty.backward()
    assert model.encoder[0].weight.grad.isfinite().all()
    assert model.encoder[0].weight.grad.any()
