import errno
import os
from pathlib import Path

import pytest

from saetools.training.checkpoints import remove_partial, write_atomically


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
    path = tmp_path / "a"
    write_atomically(path, b"before")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stop)
        with pytest.raises((FullDiskError, KeyboardInterrupt)):
            write_atomically(path, b"after")
    assert path.read_bytes() == b"before"
    assert [found.name for found in tmp_path.iterdir()] == ["a"]


def test_the_data_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    calls = []
    for owner, name in ((os, "fsync"), (Path, "replace")):
        real = getattr(owner, name)

        def spy(*arguments, real=real, name=name):
            calls.append(name)
            return real(*arguments)

        monkeypatch.setattr(owner, name, spy)
    write_atomically(str(tmp_path / "a"), b"data")
    assert calls == ["fsync", "replace"]
    assert (tmp_path / "a").read_bytes() == b"data"


def test_partial_files_of_this_name_alone_are_removed(tmp_path):
    names = [".a.01234567.partial", ".b.01234567.partial", "a.partial", "a"]
    for name in names:
        (tmp_path / name).touch()
    remove_partial(tmp_path / "a")
    assert sorted(found.name for found in tmp_path.iterdir()) == sorted(names[1:])


def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "a")
    write_atomically(tmp_path / "link", b"data")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "a").read_bytes() == b"data"


def test_a_folder_that_does_not_exist_and_a_folder_as_a_file_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="path must lie in a folder that exists, got "):
        write_atomically(tmp_path / "no folder" / "a", b"")
    with pytest.raises(OSError, match=tmp_path.name):
        write_atomically(tmp_path, b"")
    assert list(tmp_path.parent.glob(".*.partial")) == []


@pytest.mark.parametrize("path", [None, 3, b"a"])
def test_a_path_that_is_none_is_refused(path):
    for function in (remove_partial, lambda path: write_atomically(path, b"")):
        with pytest.raises(TypeError, match=r"path must be a str or a pathlib\.Path, got "):
            function(path)


def test_names_of_partial_files_differ(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Path, "replace", lambda self, target: seen.append(self.name) or fail())
    for _ in range(3):
        with pytest.raises(FullDiskError):
            write_atomically(tmp_path / "a", b"")
    assert len(set(seen)) == 3  # two processes that write one file do not write into one another
