"""The working side of a loss: float32 whatever autocast says, equal shapes or an error."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from atelier.errors import UserError
from atelier.losses.base import Reduction


class Loss(nn.Module, ABC):
    """Compares ``prediction`` with ``target`` (both N×C×H×W, values about [0, 1]).

    Subclasses write :meth:`terms`; calling the module checks the shapes and leaves autocast, because sums
    over many pixels and small differences lose their meaning in half precision.
    """

    def forward(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Weighted 0-d terms by name, for example ``{"pix": ...}``; gradients flow into ``prediction``.

        Inputs below float32 are computed in float32, float64 stays float64. Raises
        :class:`~atelier.errors.UserError` where the shapes differ (broadcasting would hide a wrong scale).
        """
        if prediction.shape != target.shape:
            raise UserError(
                f"the network's output is {shape_text(prediction)}, its target {shape_text(target)}; "
                "they must be equal: check 'scale', the network's scale and its channels"
            )
        with torch.autocast(prediction.device.type, enabled=False):
            return self.terms(_at_least_float32(prediction), _at_least_float32(target))

    @abstractmethod
    def terms(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The terms, for inputs of equal shape in float32 or float64, autocast off."""


class FunctionLoss(Loss):
    """One term from a function without state: ``weight * function(prediction, target)`` under ``name``."""

    def __init__(self, name: str, weight: float, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.name, self.weight, self.function = name, weight, function

    def terms(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The one weighted term."""
        return {self.name: self.weight * self.function(prediction, target)}


def reduce(values: Tensor, reduction: Reduction) -> Tensor:
    """Mean or sum over all elements, as a 0-d tensor."""
    return values.mean() if reduction == "mean" else values.sum()


def shape_text(tensor: Tensor) -> str:
    """A shape as messages show it: ``4×3×96×96``."""
    return "×".join(str(side) for side in tensor.shape)


def full_precision(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a formula compute in float32 whatever autocast says: for functions whose first argument is a tensor.

    Tensor arguments below float32 become float32, float64 stays float64.
    """

    @wraps(function)
    def computed(first: Tensor, *arguments: Any, **named: Any) -> Tensor:
        with torch.autocast(first.device.type, enabled=False):
            return function(
                _at_least_float32(first),
                *(_at_least_float32(each) if isinstance(each, Tensor) else each for each in arguments),
                **{
                    key: _at_least_float32(each) if isinstance(each, Tensor) else each
                    for key, each in named.items()
                },
            )

    return computed


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
