"""RRDBNet at x2 and x1 without a step that computes with the size of the picture.

Squares of s x s pixels become channels first. The network pads to whole squares by reflection, as many pixels as are
missing, and crops its result: both depend on the size, for which ncnn has no operators. Here s - 1 pixels are always
added, and the squares are gathered by a convolution of kernel and stride s whose weights are 0 and 1; it gives
``floor((H + s - 1 - s) / s) + 1 = ceil(H / s)`` rows, and leaves out what it was given too much. A product with 1 and
sums with 0 are exact. The result is cropped by ncnn's Crop with a second input, whose height and width it takes: the
picture, enlarged to the result's size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs.rrdbnet import RRDBNet
from atelier.errors import UserError


class GatheredRRDBNet(nn.Module):
    """``net`` on pictures of any size from ``least_size`` up; its result still has the added pixels."""

    gather: Tensor

    def __init__(self, net: RRDBNet) -> None:
        super().__init__()
        channels, side = net.options.num_in_ch, net.unshuffle
        if net.options.num_out_ch != channels:
            raise UserError(
                f"ncnn has no form for RRDBNet x{net.scale} from {channels} to {net.options.num_out_ch} channels: its "
                "Crop takes the size of the input with all its channels; export it to ONNX or OpenVINO"
            )
        self.net, self.side, self.scale = net, side, net.scale
        gather = torch.eye(channels * side**2).view(channels * side**2, channels, side, side)
        self.register_buffer("gather", gather)

    @property
    def least_size(self) -> int:
        """A reflection needs one pixel more than it adds."""
        return self.side

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] to [B, C, 4 * ceil(H / side), 4 * ceil(W / side)], not clamped."""
        more = self.side - 1
        x = F.pad(x, (0, more, 0, more), "reflect")
        return self.net.trunk(F.conv2d(x, self.gather, stride=self.side))


def cropped(param: str, scale: int) -> str:
    """The text of a ``.param`` whose output ``out0`` is cut to ``scale`` times the size of its input ``in0``.

    A blob that two layers take goes through a layer of type Split.
    """
    lines = param.splitlines()
    layers = [line.split() for line in lines[2:] if line.strip()]
    for words in layers:
        takes = range(4, 4 + int(words[2]))
        gives = range(4 + int(words[2]), 4 + int(words[2]) + int(words[3]))
        for place in takes:
            words[place] = {"in0": "picture", "out0": "whole"}.get(words[place], words[place])
        for place in gives:
            words[place] = {"out0": "whole"}.get(words[place], words[place])
    front = next(place for place, words in enumerate(layers) if words[0] == "Input") + 1
    added = [["Split", "split_picture", "1", "2", "in0", "picture", "small"]]
    if scale == 1:
        added[0][-1] = "size"
    else:
        sides = [f"{axis}={scale:e}" for axis in (1, 2)]
        added.append(["Interp", "enlarged", "1", "1", "small", "size", "0=1", *sides])
    layers[front:front] = added
    layers.append(["Crop", "crop", "2", "1", "whole", "size", "out0"])
    blobs = sum(int(words[3]) for words in layers)
    text = [f"{words[0]:<24} {words[1]:<24} {' '.join(words[2:])}" for words in layers]
    return "\n".join([lines[0], f"{len(layers)} {blobs}", *text]) + "\n"
