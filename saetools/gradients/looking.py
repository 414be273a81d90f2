"""To look without being seen, and without doing harm."""

from typing import Any

import torch

from saetools.gradients.frames import COMPILED


class Looking:
    """While we look, no other tracer sees it; and what we fail at is noted, not raised."""

    def __init__(self, failures: list[str]) -> None:
        self._failures = failures
        self._silent = torch._C.DisableTorchFunction()

    def __enter__(self) -> None:
        self._silent.__enter__()

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        self._silent.__exit__(kind, error, traceback)
        if not isinstance(error, Exception) or str(error) == COMPILED:
            return False
        self._failures.append(f"{type(error).__name__}: {error}")
        return True
