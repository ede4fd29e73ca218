"""Fixtures of the training room."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal")


class _NoHostSync(TorchDispatchMode):
    """Raises on every operation that would make the host wait for a device to learn a value."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in WAITING:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def no_host_sync() -> Callable[[], AbstractContextManager[Any]]:
    return _NoHostSync
