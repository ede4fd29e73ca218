"""Counting the bytes of tensors that are alive, by watching every operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class AliveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, follows the memory of every tensor that an operator returns, until its last reference is gone.

    Works on any device. CUDA's own peak counter is not used: reading it means resetting it, and it belongs to
    whoever logs the run. What an operator needs inside itself is not seen.

    Args:
        known: tensors that existed before (weights, input); they and their views count nothing.

    Attributes:
        peak: bytes of the tensors alive at once, at most.
        largest: elements of the largest single one.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0
        self.largest = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Torch would import its compiler to keep it away from here, which takes many times longer than a forward.
        return False

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._alive = {key: entry for key, entry in self._alive.items() if not _gone(entry[0])}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.layout is torch.strided:
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self._known:
                    self._alive[key] = (_watch(storage), storage.nbytes())
                    self.largest = max(self.largest, storage.nbytes() // tensor.element_size())
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result


def _watch(storage: torch.UntypedStorage) -> StorageWeakRef:
    return StorageWeakRef(storage)  # type: ignore[no-untyped-call]


def _gone(reference: StorageWeakRef) -> bool:
    return bool(reference.expired())  # type: ignore[no-untyped-call]
