"""VGGStyleDiscriminator: judges a whole picture (SRGAN, Ledig et al., CVPR 2017; ESRGAN, ECCVW 2018)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs.checks import checked
from atelier.archs.vgg_discriminator_options import VGGStyleDiscriminatorOptions

_SLOPE = 0.2
#: Channels after each halving, in units of ``num_feat``; pictures of 256 pixels are halved once more, with 8.
_WIDTHS = (1, 2, 4, 8, 8)
_HIDDEN = 100


class VGGStyleDiscriminator(nn.Module):
    """Pairs of a 3x3 and a halving 4x4 convolution down to 4x4 pixels, then two linear layers.

    Every convolution but the first is followed by BatchNorm and has no bias.
    """

    def __init__(self, num_in_ch: int = 3, num_feat: int = 64, input_size: int = 128) -> None:
        super().__init__()
        self.options = checked(
            VGGStyleDiscriminatorOptions, num_in_ch=num_in_ch, num_feat=num_feat, input_size=input_size
        )
        widths = [num_feat * factor for factor in _WIDTHS]
        if input_size == 256:
            widths.append(widths[-1])
        self.steps: list[tuple[str, str | None]] = []
        taken = num_in_ch
        for level, width in enumerate(widths):
            self._add(f"{level}_0", nn.Conv2d(taken, width, 3, 1, 1, bias=level == 0), norm=level > 0)
            self._add(f"{level}_1", nn.Conv2d(width, width, 4, 2, 1, bias=False), norm=True)
            taken = width
        self.linear1 = nn.Linear(taken * 4 * 4, _HIDDEN)
        self.linear2 = nn.Linear(_HIDDEN, 1)

    def _add(self, name: str, conv: nn.Conv2d, *, norm: bool) -> None:
        self.add_module(f"conv{name}", conv)
        if norm:
            self.add_module(f"bn{name}", nn.BatchNorm2d(conv.out_channels))
        self.steps.append((f"conv{name}", f"bn{name}" if norm else None))

    def forward(self, x: Tensor) -> Tensor:
        """[B, num_in_ch, input_size, input_size] to logits [B, 1]."""
        for conv, norm in self.steps:
            x = self.get_submodule(conv)(x)
            if norm is not None:
                x = self.get_submodule(norm)(x)
            x = F.leaky_relu(x, _SLOPE, inplace=True)
        x = F.leaky_relu(self.linear1(x.flatten(1)), _SLOPE)
        logits: Tensor = self.linear2(x)
        return logits
