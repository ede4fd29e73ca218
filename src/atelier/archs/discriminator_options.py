"""What every discriminator's options class offers; no torch at module level."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from atelier.options.base import Component

if TYPE_CHECKING:
    from torch import nn


class DiscriminatorOptions(Component):
    """Options of one discriminator: a network that judges pictures, one or many logits each."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The network with freshly drawn weights, float32, on torch's default device."""

    @property
    @abstractmethod
    def in_channels(self) -> int:
        """Channels of the pictures it judges."""

    @abstractmethod
    def check_size(self, size: int) -> None:
        """Raise ValueError, saying what is allowed, where it cannot judge crops of ``size`` x ``size`` pixels."""
