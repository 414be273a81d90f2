"""Where tensors are put."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


def on_device(device: str | torch.device | None, fields: Iterable[Any]) -> Iterator[Any]:
    """The fields, those that are tensors on `device`, or on torch's default device."""
    place = torch.empty(0, device=device).device
    return (field.to(place) if isinstance(field, Tensor) else field for field in fields)
