"""ColorVidNet, the network that refines warped colours with the previous frame's.

Structure and state-dict names: Zhang et al., "Deep Exemplar-based Video Colorization" (CVPR 2019), as SwinTExCo and
the fusion network ``vidnet`` use it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Three halvings, and instance normalisation needs more than one position at the lowest level.
SIDE_MULTIPLE = 8
SMALLEST_SIDE = 16

# Stages below the first: (number, convolutions, channels, dilation, halved afterwards).
_ENCODER = (
    (2, 2, 128, 1, True),
    (3, 3, 256, 1, True),
    (4, 3, 512, 1, False),
    (5, 3, 512, 2, False),
    (6, 3, 512, 2, False),
    (7, 3, 512, 1, False),
)
# Stages that double the size: (number, convolutions, channels, the encoder stage that joins by a 3x3 "short").
_DECODER = ((8, 3, 256, "3_3"), (9, 2, 128, "2_2"), (10, 2, 128, "1_2"))


def _conv(channels_in: int, channels_out: int, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=dilation, dilation=dilation)


class ColorVidNet(nn.Module):
    """An encoder with three halvings, dilated middle, decoder with three sums; tanh at the end.

    Every 3x3 convolution is followed by its PReLU, every stage by an instance normalisation without parameters; the
    convolutions after an enlargement and the ``short`` ones have one PReLU together, after their sum.

    Args:
        in_channels: 7 in the official files (L, warped ab, similarity, previous LAB), 4 in those of the single-frame
            variant (without the previous frame), 8 for the fusion of two sources.
        out_channels: planes of the result.
        out_scale: factor after tanh: 1 in unit scale, 128 for the official weights, whose LAB is centred
            (L - 50, ab unscaled).
    """

    def __init__(self, in_channels: int = 7, out_channels: int = 2, out_scale: float = 1.0) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_scale = out_scale
        self.conv1_1 = nn.Sequential(_conv(in_channels, 32), nn.ReLU(), _conv(32, 64))
        self.conv1_2 = _conv(64, 64)
        self._halve("1_2", 64)
        width = 64
        for stage, count, channels, dilation, halved in _ENCODER:
            for index in range(1, count + 1):
                self.add_module(f"conv{stage}_{index}", _conv(width, channels, dilation))
                width = channels
            if halved:
                self._halve(f"{stage}_{count}", channels)
        for stage, count, channels, source in _DECODER:
            enlarged = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), _conv(width, channels))
            self.add_module(f"conv{stage}_1", enlarged)
            self.add_module(f"conv{source}_short", _conv(64 if stage == 10 else channels, channels))
            for index in range(2, count + 1):
                self.add_module(f"conv{stage}_{index}", _conv(channels, channels))
            width = channels
        self.conv10_ab = nn.Conv2d(width, out_channels, 1)
        for name in ("1_1", "1_2", *(f"{s}_{i}" for s, n, *_ in _ENCODER for i in range(1, n + 1))):
            self.add_module(f"relu{name}", nn.PReLU())
        for name in ("8_1_comb", "8_2", "8_3", "9_1_comb", "9_2", "10_1_comb"):
            self.add_module(f"relu{name}", nn.PReLU())

    def _halve(self, name: str, channels: int) -> None:
        # A learned factor per channel on every second position.
        taken = nn.Conv2d(channels, channels, 1, stride=2, groups=channels, bias=False)
        self.add_module(f"conv{name}norm_ss", taken)

    def _apply_named(self, prefix: str, name: str, x: Tensor) -> Tensor:
        result: Tensor = self.get_submodule(f"{prefix}{name}")(x)
        return result

    def _stage(self, x: Tensor, names: list[str]) -> Tensor:
        for name in names:
            x = self._apply_named("relu", name, self._apply_named("conv", name, x))
        return F.instance_norm(x)

    def forward(self, x: Tensor) -> Tensor:
        """Colours from stacked planes.

        Args:
            x: ``[B, in_channels, H, W]``; H and W multiples of 8, at least 16.

        Returns:
            ``[B, out_channels, H, W]`` in ``[-out_scale, out_scale]``.

        Raises:
            ValueError: another number of channels, or a size that cannot be halved three times.
        """
        _, channels, height, width = x.shape
        if channels != self.in_channels:
            raise ValueError(f"ColorVidNet got {channels} planes, it was made for {self.in_channels}")
        if height % SIDE_MULTIPLE or width % SIDE_MULTIPLE or min(height, width) < SMALLEST_SIDE:
            raise ValueError(
                f"ColorVidNet needs sides that are multiples of {SIDE_MULTIPLE} and at least {SMALLEST_SIDE}, "
                f"got {height}x{width}"
            )
        kept = {"1_2": self._stage(x, ["1_1", "1_2"])}
        x = self._apply_named("conv", "1_2norm_ss", kept["1_2"])
        for stage, count, _, _, halved in _ENCODER:
            x = self._stage(x, [f"{stage}_{index}" for index in range(1, count + 1)])
            if halved:
                last = f"{stage}_{count}"
                kept[last] = x
                x = self._apply_named("conv", f"{last}norm_ss", x)
        for stage, count, _, source in _DECODER:
            x = self._apply_named("conv", f"{stage}_1", x)
            x = x + self._apply_named("conv", f"{source}_short", kept[source])
            x = self._apply_named("relu", f"{stage}_1_comb", x)
            if stage < 10:
                x = self._stage(x, [f"{stage}_{index}" for index in range(2, count + 1)])
        x = F.leaky_relu(self._apply_named("conv", "10_2", x), 0.2)
        return torch.tanh(self.conv10_ab(x)) * self.out_scale
