import errno
import json
import os
import stat
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saetools.training import files as _files
from saetools.training.files import read, remove_partial, write


def filled(path, value=1.0):
    write(path, "model", {"a": torch.full((3,), value)}, {"note": "é"})
    return path


def test_what_is_written_is_read(tmp_path):
    tensors = {
        "matrix": torch.rand(3, 4, dtype=torch.float64),
        "count": torch.tensor(7),
        "none": torch.empty(0, 2),
        "mask": torch.tensor([True, False]),
        "half": torch.rand(2).bfloat16(),
    }
    write(tmp_path / "a", "model", tensors, {"note": [1, "é", None]})
    back, about = read(str(tmp_path / "a"), "model")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)
    assert about == {"format": 1, "kind": "model", "note": [1, "é", None]}
    assert {name: t.shape for name, t in load_file(tmp_path / "a").items()} == {
        name: t.shape for name, t in tensors.items()
    }  # the library itself reads it


def test_shared_memory_strides_and_gradients_do_not_matter(tmp_path):
    base = torch.rand(4, 6, requires_grad=True)
    tensors = {"whole": base, "same": base, "part": base[1:3], "turned": base.T}
    tensors["wide"] = torch.rand(1, 3).expand(5, 3)
    write(tmp_path / "a", "model", tensors, {})
    back, _ = read(tmp_path / "a", "model")
    for name, tensor in tensors.items():
        assert torch.equal(back[name], tensor)


def test_a_default_device_changes_nothing(tmp_path):
    with torch.device("meta"):
        write(tmp_path / "a", "model", {"a": torch.ones(2, device="cpu")}, {})
        back, _ = read(tmp_path / "a", "model")
    assert back["a"].tolist() == [1, 1]


def test_what_was_read_does_not_change_with_the_file(tmp_path):
    path = filled(tmp_path / "a")
    back, _ = read(path, "model")
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert back["a"].tolist() == [1, 1, 1]


class FullDiskError(OSError):
    pass


def fail(*_, **__):
    raise FullDiskError(errno.ENOSPC, "No space left on device")


class HalfFull:
    """An open file on a disk that has room for half of what is written."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        fail()


def interrupt(*_):
    raise KeyboardInterrupt


PATH_OPEN = Path.open


@pytest.mark.parametrize(
    ("owner", "name", "stop"),
    [
        (Path, "open", lambda path, mode: HalfFull(PATH_OPEN(path, mode))),
        (os, "fsync", fail),
        (os, "fsync", interrupt),
        (Path, "replace", fail),
        (Path, "replace", interrupt),
    ],
)
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, owner, name, stop):
    path = filled(tmp_path / "a")
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stop)
        with pytest.raises((FullDiskError, KeyboardInterrupt)):
            filled(path, 2.0)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["a"]


def test_the_data_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    calls = []
    for owner, name in ((os, "fsync"), (Path, "replace")):
        real = getattr(owner, name)

        def spy(*arguments, real=real, name=name):
            is_folder = name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            calls.append("folder" if is_folder else name)
            return real(*arguments)

        monkeypatch.setattr(owner, name, spy)
    filled(tmp_path / "a")
    assert calls[:2] == ["fsync", "replace"]
    assert calls[2:] == (["folder"] if hasattr(os, "O_DIRECTORY") else [])


def test_a_system_that_cannot_open_folders_is_no_hindrance(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        filled(tmp_path / "a")
    monkeypatch.delattr(os, "O_DIRECTORY", raising=False)
    monkeypatch.setattr(os, "open", lambda *arguments: pytest.fail("a folder was opened"))
    filled(tmp_path / "b")
    assert read(tmp_path / "b", "model")[0]["a"].tolist() == [1, 1, 1]


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_a_file_is_as_readable_as_others(tmp_path):
    (tmp_path / "other").touch()
    assert filled(tmp_path / "a").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "a")
    filled(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert read(tmp_path / "folder" / "a", "model")[0]["a"].tolist() == [1, 1, 1]
    assert [found.name for found in (tmp_path / "folder").iterdir()] == ["a"]


def test_what_a_killed_process_left_of_this_file_is_removed(tmp_path):
    names = [".a.12ab34cd.partial", ".ab.12ab34cd.partial", "a.12.partial", "a"]
    for name in names:
        (tmp_path / name).touch()
    remove_partial(tmp_path / "a")
    assert sorted(found.name for found in tmp_path.iterdir()) == sorted(names[1:])
    remove_partial(tmp_path / "no folder" / "a")


def test_every_truncation_is_refused_in_one_line(tmp_path):
    whole = filled(tmp_path / "a").read_bytes()
    cut = tmp_path / "cut"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is no complete safetensors file: ") as caught:
            read(cut, "model")
        assert "\n" not in str(caught.value)
    cut.write_bytes(whole + b"0")
    with pytest.raises(ValueError, match="is no complete safetensors file: "):
        read(cut, "model")


def described(**changes):
    about = {"format": 1, "kind": "model"} | changes
    return {"saetools": json.dumps(about)}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "was not written by saetools"),
        ({"format": "pt"}, "was not written by saetools"),
        ({"saetools": "{"}, "was not written by saetools"),
        ({"saetools": "[" * 100_000}, "was not written by saetools"),
        ({"saetools": "3"}, "was not written by saetools"),
        ({"saetools": "{}"}, "was not written by saetools"),
        (described(format="1"), "was not written by saetools"),
        (described(format=0), "was not written by saetools"),
        (described(format=2), r"was written by a newer saetools, in format 2; this one reads .*1:"),
        (described(format=2, kind="?"), "was written by a newer saetools"),
        (described(kind="checkpoint"), "must hold a model, got 'checkpoint'"),
        (described(kind="a\nb"), r"must hold a model, got 'a\\nb'"),
    ],
)
def test_files_of_others_and_newer_ones_are_refused_in_one_line(tmp_path, metadata, message):
    save_file({"a": torch.ones(3)}, tmp_path / "a", metadata=metadata)
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path / "a", "model")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "a") in str(caught.value)


def test_a_reason_that_quotes_the_file_stays_in_one_line(tmp_path):
    header = json.dumps({"a": {"dtype": "F\n32", "shape": [], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match="is no complete safetensors file") as caught:
        read(tmp_path / "a", "model")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_what_the_system_says(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        read(tmp_path / "none", "model")
    folder_error = PermissionError if os.name == "nt" else IsADirectoryError
    with pytest.raises(folder_error, match=tmp_path.name):
        read(tmp_path, "model")
    with pytest.raises(OSError, match=tmp_path.name):
        filled(tmp_path)
    assert list(tmp_path.parent.glob(".*.partial")) == []
    with pytest.raises(FileNotFoundError, match="path must lie in a folder that exists, got "):
        filled(tmp_path / "no folder" / "a")


@pytest.mark.parametrize("path", [None, 3, b"a"])
def test_a_path_that_is_none_is_refused(path):
    for function in (filled, lambda path: read(path, "model")):
        with pytest.raises(TypeError, match=r"path must be a str or a pathlib\.Path, got "):
            function(path)


def test_a_dtype_that_the_format_lacks_is_refused_at_once(tmp_path):
    with pytest.raises(TypeError, match=r"a safetensors file cannot hold torch\.complex128"):
        write(tmp_path / "a", "model", {"a": torch.ones(2, dtype=torch.complex128)}, {})
    assert list(tmp_path.iterdir()) == []


def test_without_safetensors_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    for function in (filled, lambda path: read(path, "model")):
        with pytest.raises(ImportError, match=r'pip install "saetools\[saving\]"'):
            function(tmp_path / "a")


def test_names_of_partial_files_differ(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Path, "replace", lambda self, target: seen.append(self.name) or fail())
    for _ in range(3):
        with pytest.raises(FullDiskError):
            filled(tmp_path / "a")
    assert len(set(seen)) == 3  # two processes that write one file do not write into one another
    assert all(name.endswith(_files._PARTIAL) for name in seen)
