"""Files that are written whole or not at all."""

import os
import secrets
from pathlib import Path

FilePath = str | os.PathLike[str]


def write_atomically(path: FilePath, data: bytes) -> None:
    """Put `data` into a file, which appears whole or not at all; until then an older one stays."""
    target = checked_path(path).resolve()  # a symbolic link is followed, not replaced
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path must lie in a folder that exists, got {target}")
    # In the same folder, since a file is replaced in one go only within a file system.
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the new name on an empty file
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_partial(path: FilePath) -> None:
    """Remove what a process left that was killed while it wrote the file at `path`."""
    target = checked_path(path).resolve()
    for left in target.parent.glob("*.partial"):
        if left.name.startswith(f".{target.name}."):
            left.unlink(missing_ok=True)


def checked_path(path: object) -> Path:
    """`path` as a Path."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a str or a pathlib.Path, got {type(path).__name__}")
    return Path(path)
