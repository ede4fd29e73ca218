"""A matching network of 23,457 numbers that compares the texture of luminance.

It needs no weights from elsewhere: filters as drawn already match pictures of the same scene, and training is a matter
of a minute. It knows nothing of meaning: references must show the same scene.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

#: The features have 1/4 of the picture's size.
REDUCTION = 4
_COLDEST, _WARMEST, _FIRST = 0.01, 1.0, 0.05


class TinyExemplarNet(nn.Module):
    """Four convolutions on L, two of them halving, and a temperature that is learned.

    Args:
        seed: of the filters; the same seed is the same network on every machine.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *self._step(1, 16, 2),
            *self._step(16, 32, 2),
            *self._step(32, 32, 1),
            nn.Conv2d(32, 32, 3, padding=1),
        )
        self.log_tau = nn.Parameter(torch.tensor(math.log(_FIRST)))
        self._draw(torch.Generator().manual_seed(seed))

    @staticmethod
    def _step(channels_in: int, channels_out: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1),
            nn.GroupNorm(4, channels_out),
            nn.SiLU(),
        ]

    @torch.no_grad()
    def _draw(self, numbers: torch.Generator) -> None:
        # PyTorch's own distribution for convolutions, from numbers of our own.
        for module in self.encoder:
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                bound = 1 / math.sqrt(module.weight[0].numel())
                for parameter in (module.weight, module.bias):
                    drawn = torch.rand(parameter.shape, generator=numbers, device="cpu")
                    parameter.copy_((2 * drawn - 1) * bound)

    @property
    def temperature(self) -> Tensor:
        """A scalar in [0.01, 1] with gradient."""
        return self.log_tau.exp().clamp(_COLDEST, _WARMEST)

    def forward(self, lightness: Tensor) -> Tensor:
        """``[B, 1, H, W]`` unit lightness, sides multiples of 4, to features ``[B, 32, H/4, W/4]``."""
        result: Tensor = self.encoder(lightness)
        return result
