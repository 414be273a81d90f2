"""Files that appear whole or not at all."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

FilePath = str | os.PathLike[str]

_PARTIAL = ".partial"


def write_atomically(path: FilePath, data: bytes) -> None:
    """Write a file; until it is complete, and after an error, an older one stays as it was."""
    target = Path(path).resolve()  # a symbolic link is followed, not replaced
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path must lie in a folder that exists, got {target}")
    # In the same folder, since a file is replaced in one go only within a file system.
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_PARTIAL}")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the new name on an empty file
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):  # the folder too, where a system lets it be opened
        with suppress(OSError):
            folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def remove_partial(path: FilePath) -> None:
    """Remove what a process left that was killed while it wrote the file at `path`."""
    target = Path(path).resolve()
    for left in target.parent.glob("*" + _PARTIAL):
        if left.name.startswith(f".{target.name}."):
            left.unlink(missing_ok=True)
