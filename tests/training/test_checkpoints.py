import math
import multiprocessing
import pathlib
import random
import signal
import time
from functools import partial

import numpy as np
import pytest
import torch
from stopped_training import STEPS, Network, X, train_in_a_process, training
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, SequentialLR

from saetools import (
    FrequencyMultipliers,
    SparseAutoencoder,
    evaluate,
    frequency_penalty,
    train,
    train_at_frequency,
    train_ensemble,
)

# A forked process needs no two seconds to import torch.
FORK = "forkserver" in multiprocessing.get_all_start_methods()
PROCESSES = multiprocessing.get_context("forkserver" if FORK else "spawn")
PROCESSES.set_forkserver_preload(["torch", "torch._dynamo", "saetools"])


class StoppedError(Exception):
    pass


class Stop:
    """Counts its calls, and raises at the one of this number, from 0."""

    __slots__ = ("at", "calls")  # and no __dict__: not what a training is known by

    def __init__(self, at=None):
        self.at, self.calls = at, 0

    def __call__(self):
        self.calls += 1
        if self.calls - 1 == self.at:
            raise StoppedError


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(a[name], b[name]) if isinstance(a[name], torch.Tensor) else a[name] == b[name]
        for name in a
    )


def weights(model):
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def stopping_penalty(stop, rho=0.2):
    def penalty(output):
        stop()
        return frequency_penalty(output.pre_activations, rho=rho, dim=-2)

    return penalty


def frequency(output):
    return frequency_penalty(output.pre_activations, rho=0.2)


def global_states():
    states = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()  # noqa: NPY002
    return str(states)


@pytest.fixture(scope="module")
def uninterrupted():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes
    yield training(None)
    torch.set_num_threads(threads)


def test_keeping_checkpoints_changes_no_bit(tmp_path, uninterrupted):
    for every in (7, 1000):
        assert same(training(tmp_path / f"{every}", every=every), uninterrupted)


@pytest.mark.parametrize("at", [0, 1, 3, 4, 5, 31, 32, STEPS - 1])
def test_training_goes_on_from_any_step_to_the_same_bits(tmp_path, uninterrupted, at):
    with pytest.raises(StoppedError):
        training(tmp_path / "a", at_step=Stop(at))
    count = Stop()
    # In other global random states: those of the first run are in the file.
    assert same(training(tmp_path / "a", at_step=count, seed=8), uninterrupted)
    assert count.calls == STEPS - at // 4 * 4
    assert [found.name for found in tmp_path.iterdir()] == ["a"]


def test_training_may_be_stopped_again_and_again(tmp_path, uninterrupted):
    for at in (9, 1, 14, 4, 11, 0):
        with pytest.raises(StoppedError):
            training(tmp_path / "a", at_step=Stop(at), every=5)
    assert same(training(tmp_path / "a", every=2), uninterrupted)  # how often may change


def test_what_is_complete_is_returned_at_once(tmp_path, uninterrupted):
    training(tmp_path / "a")
    written = (tmp_path / "a").stat().st_mtime_ns
    assert same(training(tmp_path / "a", at_step=Stop(0)), uninterrupted)
    assert (tmp_path / "a").stat().st_mtime_ns == written


def in_a_process(path, *, kill_at=None, delay=0.0, write=None):
    """How the process ended, the steps it did, and what came out, if anything did."""
    result, steps = path.with_name("result"), PROCESSES.RawValue("i", 0)
    arguments = path, result, steps, kill_at is not None, write
    process = PROCESSES.Process(target=train_in_a_process, args=arguments)
    process.start()
    if kill_at is not None:
        while steps.value < kill_at and process.is_alive():
            time.sleep(0.0002)
        time.sleep(delay)
        process.kill()
    process.join(60)
    exit_code = process.exitcode
    process.close()
    return (
        exit_code,
        steps.value,
        torch.load(result, weights_only=True) if result.exists() else None,
    )


def was_killed(exit_code):
    return exit_code == -getattr(signal, "SIGKILL", -1)


def check_kills(count, folder, uninterrupted):
    chance = random.Random(0)
    for number in range(count):
        path = folder / f"{number}" / "a"
        path.parent.mkdir()
        at, delay = chance.randint(0, STEPS - 1), chance.uniform(0, 0.01)
        exit_code, _, result = in_a_process(path, kill_at=at, delay=delay)
        assert was_killed(exit_code)
        assert result is None
        exit_code, steps, result = in_a_process(path)
        assert exit_code == 0
        assert same(result, uninterrupted)
        assert steps <= STEPS - max(0, at - 4)  # it did go on, and did not begin anew
        assert sorted(found.name for found in path.parent.iterdir()) == ["a", "result"]


@pytest.mark.slow
def test_kills_at_random_steps_end_in_the_same_bits(tmp_path, uninterrupted):
    check_kills(5, tmp_path, uninterrupted)


@pytest.mark.nightly
def test_twenty_kills_at_random_steps_end_in_the_same_bits(tmp_path, uninterrupted):
    check_kills(20, tmp_path, uninterrupted)


@pytest.mark.skipif(not FORK, reason="os.kill and os.truncate differ on Windows")
@pytest.mark.parametrize("number", [0, 3])
@pytest.mark.parametrize("where", ["half", "before", "after"])
def test_a_kill_during_the_writing_of_a_checkpoint(tmp_path, uninterrupted, number, where):
    exit_code, done, _ = in_a_process(tmp_path / "a", write=(number, where))
    assert was_killed(exit_code)
    assert done == 3 * number
    exit_code, steps, result = in_a_process(tmp_path / "a")
    assert same(result, uninterrupted)
    newest = number if where == "after" else max(0, number - 1)
    assert steps == STEPS - 3 * newest
    assert sorted(found.name for found in tmp_path.iterdir()) == ["a", "result"]


def plain(path, *, model=None, x=X, penalty=frequency, every=2, **options):
    model = SparseAutoencoder((20, 6, 3), seed=0) if model is None else model
    options = {"steps": 11, "batch_size": 16, **options}
    history = train(model, x, penalty, checkpoint=path, checkpoint_every=every, **options)
    return {"weights": weights(model), "error": history.error, "penalty": history.penalty}


def test_generators_that_nobody_draws_from_are_given_back(tmp_path):
    for path, at in ((tmp_path / "a", 5), (tmp_path / "a", None), (tmp_path / "b", None)):
        torch.manual_seed(at or 7)
        states = global_states()
        if at is None:
            plain(path, penalty=stopping_penalty(Stop()))
        else:
            with pytest.raises(StoppedError):
                plain(path, penalty=stopping_penalty(Stop(at)))
        assert global_states() == states
    states = global_states()
    plain(tmp_path / "a", penalty=stopping_penalty(Stop(0)))  # it is complete
    assert global_states() == states


def half_rate(adam):
    return LambdaLR(adam, lambda step: 1 / (1 + step))


def two_phases(adam):
    first, second = LinearLR(adam, 0.1, 1.0, 4), CosineAnnealingLR(adam, 7)
    return SequentialLR(adam, [first, second], [4])


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # torch 2.4's own, of its SequentialLR
@pytest.mark.parametrize("scheduler", [None, half_rate, two_phases])
def test_schedulers_go_on(tmp_path, scheduler):
    def run(path, at=None):
        return plain(path, penalty=stopping_penalty(Stop(at)), scheduler=scheduler)

    for at in (2, 3, 5):
        with pytest.raises(StoppedError):
            run(tmp_path / "a", at)
    assert same(run(tmp_path / "a"), run(None))


class Running(nn.Module):
    """A penalty that is a module, and keeps a running mean of the frequency in a buffer."""

    def __init__(self, stop=None):
        super().__init__()
        self.stop = stop or Stop()
        self.register_buffer("rho_hat", torch.zeros(()))

    def forward(self, output):
        self.stop()
        self.rho_hat.lerp_(output.latents.detach().mean(), 0.1)
        return self.rho_hat * output.latents.mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_penalty_that_is_a_module_goes_on(tmp_path, dtype):
    def run(path, penalty, seed=0):
        torch.manual_seed(seed)
        return plain(path, penalty=penalty.to(dtype), x=X.to(dtype), model=Network().to(dtype))

    with pytest.raises(StoppedError):
        run(tmp_path / "a", Running(Stop(5)))
    again, through = Running(), Running()
    assert same(run(tmp_path / "a", again, seed=1), run(None, through))
    assert torch.equal(again.rho_hat, through.rho_hat)


def other(output):
    return frequency(output)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 12}, r"of training with steps = 11, got 12: go on as it was begun, or remove"),
        ({"batch_size": 8}, r"with batch_size = 16, got 8"),
        ({"lr": 2e-3}, r"with lr = 0.001, got 0.002"),
        ({"seed": 1}, r"with seed = 0, got 1"),
        ({"penalty": None}, r"with penalty = frequency\(.*\), got None"),
        ({"penalty": other}, r"with penalty = frequency\(.*\), got other\("),
        ({"penalty": Running()}, r"with penalty = frequency\(.*\), got Running \w{16}"),
        ({"weight": 2}, r"with weight = 1.0, got 2"),
        ({"weight": math.sqrt}, r"with weight = 1.0, got sqrt"),
        ({"scheduler": half_rate}, r"with scheduler = None, got half_rate"),
        ({"observe": weights}, r"with observe = None, got 'weights'"),
        ({"observe_every": 3}, r"with observe_every = 100, got 3"),
        ({"x": X[1:]}, r"with x = torch.float32 \(50, 20\) cpu \w{16}, got torch.float32 \(49"),
        ({"x": X.double()}, r"x must be as the model is, torch.float32 on cpu, got torch.float64"),
        ({"x": X.flip(0)}, r"with x = torch.float32 \(50, 20\) cpu \w{16}, got torch.float32 \(50"),
        ({"x": X.nextafter(X + 1)}, r"with x = "),
        ({"model": SparseAutoencoder((20, 6, 4))}, r"with model = SparseAutoencoder \w{16}, got"),
        ({"model": SparseAutoencoder((20, 6, 3), seed=4)}, r"with model = SparseAutoencoder"),
        ({"model": SparseAutoencoder((20, 6, 3), torch.tanh, seed=0)}, r"with model = "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_training_is_refused_and_the_model_left_alone(tmp_path, change, message):
    plain(tmp_path / "a")
    model = change.pop("model", SparseAutoencoder((20, 6, 3), seed=0))
    written, before = (tmp_path / "a").read_bytes(), weights(model)
    with pytest.raises(ValueError, match=message):
        plain(tmp_path / "a", **{"model": model, **change})
    assert torch.equal(weights(model), before)
    assert (tmp_path / "a").read_bytes() == written


def test_what_does_not_change_the_result_may_change(tmp_path):
    expected = plain(tmp_path / "a")
    options = {"value_range": None, "stop_if_not_finite": False, "every": 7, "steps": np.int64(11)}
    assert same(plain(tmp_path / "a", **options, x=X.T.contiguous().T), expected)


def test_damaged_files_and_files_of_others_are_refused_and_the_model_left_alone(tmp_path):
    path = tmp_path / "a"
    plain(path)
    whole, state = path.read_bytes(), torch.load(path, weights_only=True)
    model = SparseAutoencoder((20, 6, 3), seed=0)
    before = weights(model)

    def refused(message):
        with pytest.raises(ValueError, match=message) as caught:
            plain(path, model=model)
        assert "\n" not in str(caught.value)
        assert torch.equal(weights(model), before)

    for length in range(0, len(whole), 1009):
        path.write_bytes(whole[:length])
        refused("is no complete checkpoint")
    for content, message in (
        (model.state_dict(), "is no checkpoint of this saetools"),
        ([1, 2], "is no checkpoint of this saetools"),
        (model, "is no complete checkpoint"),  # it would have to be unpickled
        (state | {"format": 3}, "is no checkpoint of this saetools, format 2"),
        ({"format": 2}, "is no checkpoint of this saetools"),
        (state | {"parts": {}}, "is a damaged checkpoint: it lacks the state of a part"),
    ):
        torch.save(content, path)
        refused(message)


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pathlib.Path.touch, (tmp_path / "sprung",))

    torch.save({"format": 2, "done": Trap()}, tmp_path / "a")
    with pytest.raises(ValueError, match="is no complete checkpoint"):
        plain(tmp_path / "a")
    assert not (tmp_path / "sprung").exists()


def at_frequency(path, rho=0.2, seed=0, **options):
    models = [SparseAutoencoder((20, 6, 3), seed=seed)]
    options = {"steps": 14, "batch_size": 16, **options}
    train_at_frequency(models, X, rho=rho, checkpoint=path, **options)
    return weights(models[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rho": 0.4}, "with rho = 0.2, got 0.4"),
        ({"seed": 1}, r"with models = \[SparseAutoencoder \w{16}\], got"),
        ({"skewed": False}, "with skewed = None, got False"),
        ({"tolerance": 0.04}, "with tolerance = None, got 0.04"),
        ({"seeds": [3]}, r"with seeds = None, got \[3\]"),
        ({"weight": 0.3}, "with weight = 0.2, got 0.3"),
        ({"steps": 21}, "with steps = 14, got 21"),
        ({"lr": 1e-3}, "with lr = 0.0015, got 0.001"),
        ({"batch_size": 17}, "with batch_size = 16, got 17"),
    ],
    ids=str,
)
def test_the_recipe_refuses_the_checkpoint_of_another_call(tmp_path, change, message):
    expected = at_frequency(tmp_path / "a")
    with pytest.raises(ValueError, match=message):
        at_frequency(tmp_path / "a", **change)
    assert torch.equal(at_frequency(tmp_path / "a"), expected)


def test_what_a_penalty_refers_to_belongs_to_its_training(tmp_path):
    class Scaled:
        def __init__(self, rho):
            self.rho = rho

        def __call__(self, output):
            return frequency_penalty(output.pre_activations, rho=self.rho)

    def nested(rho):
        return lambda output: Scaled(rho)(output)

    for make in (
        Scaled,
        nested,
        lambda rho: partial(scaled, rho=rho),
        lambda rho: Scaled(rho).__call__,
    ):
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        plain(path, penalty=make(0.2))
        plain(path, penalty=make(0.2))
        with pytest.raises(ValueError, match=r"rho=0\.2.*, got .*rho=0\.3"):
            plain(path, penalty=make(0.3))


def scaled(output, rho):
    return frequency_penalty(output.pre_activations, rho=rho)


def test_a_global_that_a_penalty_reads_belongs_to_its_training(tmp_path, monkeypatch):
    plain(tmp_path / "a", penalty=with_global)
    monkeypatch.setitem(globals(), "TARGET", 0.3)
    with pytest.raises(ValueError, match=r"= with_global\(.*TARGET=0.2.*, got .*TARGET=0.3"):
        plain(tmp_path / "a", penalty=with_global)


TARGET = 0.2


def with_global(output):
    return frequency_penalty(output.pre_activations, rho=TARGET)


OBSERVED = {"a": (1, 2.5, None, True), 3: [torch.ones(2, dtype=torch.int32), "é"], "nan": math.nan}


def test_observations_come_back_as_they_were(tmp_path):
    def run(at):
        penalty = stopping_penalty(Stop(at))
        model = SparseAutoencoder((20, 6, 3), seed=0)
        options = {"steps": 4, "observe": lambda model: OBSERVED, "checkpoint": tmp_path / "a"}
        return train(model, X, penalty, **options, checkpoint_every=1).observations

    with pytest.raises(StoppedError):
        run(3)
    assert str(run(None)) == str([(0, OBSERVED), (4, OBSERVED)])


@pytest.mark.parametrize(
    ("observe", "name"),
    [
        (lambda model: evaluate(model, X), "Evaluation"),
        (lambda model: {"a": [np.ones(2)]}, "ndarray"),
        (lambda model: {1, 2}, "set"),
    ],
)
def test_observations_that_no_file_can_hold_are_refused_before_any_step(tmp_path, observe, name):
    stop = Stop()
    with pytest.raises(TypeError, match=f"a checkpoint cannot hold a {name}: what observe returns"):
        plain(tmp_path / "a", penalty=stopping_penalty(stop), observe=observe)
    assert stop.calls == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"path": "none/a"}, FileNotFoundError, "path must lie in a folder that exists, got"),
        ({"path": 3}, TypeError, "path must be a str or a pathlib.Path, got int"),
        ({"path": "."}, OSError, "directory|denied"),
        ({"every": 0}, ValueError, "checkpoint_every must be at least 1, got 0"),
        ({"every": 2.0}, TypeError, "checkpoint_every must be an int, got 2.0"),
    ],
)
def test_what_is_wrong_shows_before_any_step(tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    stop = Stop()
    with pytest.raises(error, match=message):
        plain(**{"path": "a", **options}, penalty=stopping_penalty(stop))
    assert stop.calls == 0


def test_a_default_device_changes_nothing(tmp_path):
    model = SparseAutoencoder((20, 6, 3), seed=0)
    with pytest.raises(StoppedError):
        plain(tmp_path / "a", penalty=stopping_penalty(Stop(5)))
    with torch.device("meta"):
        went_on = plain(tmp_path / "a", penalty=stopping_penalty(Stop()), model=model)
    assert same(went_on, plain(None, penalty=stopping_penalty(Stop())))


def members():
    return [SparseAutoencoder((20, 6, 3), seed=seed) for seed in range(3)]


class StackedMultipliers(FrequencyMultipliers):
    def __init__(self, stop):
        super().__init__(rho=torch.tensor([[0.1], [0.2], [0.3]]))
        self.stop = stop

    def __call__(self, output):
        self.stop()
        return super().__call__(output)


@pytest.mark.parametrize("at", [0, 5, 8])
def test_an_ensemble_goes_on(tmp_path, at):
    def run(path, stop, seeds=(0, 1, 2)):
        models, penalty = members(), StackedMultipliers(stop)
        history = train_ensemble(
            models,
            X,
            penalty,
            steps=11,
            batch_size=16,
            scheduler=half_rate,
            seeds=seeds,
            observe=lambda model: model.decoder[0].weight.sum().item(),
            observe_every=3,
            checkpoint=path,
            checkpoint_every=2,
        )
        return {
            "weights": torch.stack([weights(model) for model in models]),
            "error": history.error,
            "penalty": history.penalty,
            "observations": history.observations,
            "multipliers": penalty.multipliers,
        }

    with pytest.raises(StoppedError):
        run(tmp_path / "a", Stop(at))
    count = Stop()
    assert same(run(tmp_path / "a", count), run(None, Stop()))
    assert count.calls == 11 - at // 2 * 2
    with pytest.raises(ValueError, match=r"with seeds = \[0, 1, 2\], got \[1, 2, 3\]"):
        run(tmp_path / "a", Stop(), seeds=[1, 2, 3])


@pytest.mark.parametrize("at", [3, 12])  # calls of observe: learning, the shift, holding
def test_the_recipe_goes_on_in_either_phase(tmp_path, at):
    def run(path, stop):
        models = members()

        def observe(ensemble):
            stop()
            return ensemble.decoder[0].weight.sum().item()

        options = {"steps": 14, "batch_size": 16, "observe": observe, "observe_every": 1}
        history = train_at_frequency(
            models, X, rho=0.2, checkpoint=path, checkpoint_every=2, **options
        )
        found = {"weights": torch.stack([weights(model) for model in models])}
        return found | history._asdict()

    with pytest.raises(StoppedError):
        run(tmp_path / "a.safetensors", Stop(at))
    again = Stop()
    assert same(run(tmp_path / "a.safetensors", again), run(None, Stop()))
    assert again.calls <= 16 - at
    names = [found.name for found in tmp_path.iterdir()]
    assert sorted(names) == ["a-hold.safetensors", "a-learn.safetensors"]
