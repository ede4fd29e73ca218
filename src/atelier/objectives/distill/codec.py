"""How a teacher's answers are stored: as whole numbers of 16 bits over a range, or as floats of 16 or 32 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Format = Literal["uint16", "fp16", "fp32"]
Numbers = np.ndarray[Any, np.dtype[Any]]

#: What uint16 can hold: pictures in [0, 1] and how far a network usually goes beyond.
LOW, HIGH = -0.25, 1.25
_LEVELS = 65535
_TYPES = {"uint16": "<u2", "fp16": "<f2", "fp32": "<f4"}
_ERRORS = {"uint16": (HIGH - LOW) / _LEVELS / 2 + 4e-7, "fp16": 2.0**-11, "fp32": 0.0}
_LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class Codec:
    """One way of storing float32 values."""

    format: Format

    @property
    def dtype(self) -> np.dtype[Any]:
        """What stands in the file, little-endian."""
        return np.dtype(_TYPES[self.format])

    @property
    def error(self) -> float:
        """The most that a value in [-0.25, 1.25] changes by being stored, float32's rounding included."""
        return _ERRORS[self.format]

    def encode(self, answers: Tensor) -> tuple[Numbers, Numbers]:
        """N×... float32 to (the same shape as stored, N int32: how many values lay outside of what it can hold)."""
        values = answers.detach().cpu().contiguous().numpy()
        if self.format == "fp32":
            return values.astype("<f4", copy=False), np.zeros(len(values), np.int32)
        low, high = (LOW, HIGH) if self.format == "uint16" else (-_LARGEST_HALF, _LARGEST_HALF)
        outside = ((values < low) | (values > high)).reshape(len(values), -1).sum(1).astype(np.int32)
        held = np.clip(values, low, high)
        if self.format == "fp16":
            return held.astype("<f2"), outside
        # float64: rounding to the nearest level must not lose a hundredth of a level to the scaling.
        return np.rint((held.astype(np.float64) - LOW) * (_LEVELS / (HIGH - LOW))).astype("<u2"), outside

    def decode(self, stored: Numbers, device: torch.device) -> Tensor:
        """The stored numbers as float32 on ``device``; the copy to a GPU does not wait for it."""
        raw = torch.from_numpy(np.array(stored))
        if device.type == "cuda":
            raw = raw.pin_memory().to(device, non_blocking=True)
        values = raw.to(torch.float32)
        return values.mul_((HIGH - LOW) / _LEVELS).add_(LOW) if self.format == "uint16" else values

    def seen_through(self, answers: Tensor) -> Tensor:
        """``answers`` as they come back from the store."""
        return self.decode(self.encode(answers)[0], answers.device)
