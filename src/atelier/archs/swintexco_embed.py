"""SwinTExCo's frozen features: the four stages of a Swin transformer (Liu et al., "Swin Transformer V2", CVPR 2022).

The network is timm's ``swinv2_cr_tiny_ns_224``, and its names are those of the official file ``embed_net.pth``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs.swintexco_backbone import MODEL, require_timm
from atelier.errors import UserError

#: The last stage sees the picture at 1/32 of its size.
SIDE_MULTIPLE = 32


class SwinEmbedNet(nn.Module):
    """Frozen: in evaluation mode always, no parameter with a gradient. Weights as drawn until a file is loaded.

    Raises:
        UserError: timm is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        require_timm()
        import timm

        self.pretrained = timm.create_model(
            MODEL,
            pretrained=False,
            features_only=True,
            out_indices=(0, 1, 2, 3),
            window_size=7,
            strict_img_size=False,
            dynamic_img_size=True,
        )
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> SwinEmbedNet:
        """Stays in evaluation mode, whatever the network around it does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, picture: Tensor) -> list[Tensor]:
        """Features of unit length.

        Args:
            picture: ``[B, 3, H, W]`` in [0, 1], **not** normalised by ImageNet's statistics: a colour picture as sRGB,
                a grey one as L/100 three times. Sides are multiples of 32.

        Returns:
            96, 192, 384 and 768 channels at 1/2, 1/4, 1/8 and 1/16 of the size (each stage enlarged twice by
            repetition), float32.

        Raises:
            ValueError: a side is no multiple of 32.
        """
        height, width = picture.shape[-2:]
        if height % SIDE_MULTIPLE or width % SIDE_MULTIPLE:
            raise ValueError(
                f"SwinEmbedNet needs sides that are multiples of {SIDE_MULTIPLE}, got {height}x{width}"
            )
        # Outside autocast: the rounding of half precision would show in the matches (which divide it by 0.01), and
        # these features cost little beside WarpNet.
        with torch.autocast(picture.device.type, enabled=False):
            stages = self.pretrained(picture.float())
        return [F.interpolate(F.normalize(stage, dim=1), scale_factor=2) for stage in stages]


def embed_state(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The weights of :class:`SwinEmbedNet` in a file of any of three forms.

    Args:
        state: ``pretrained.stages_0...`` (SwinTExCo), ``stages_0...`` (timm's feature network) or ``stages.0...`` with
            ``head.fc.*`` (timm's classifier, whose head is dropped).
        source: the file, for the message.

    Raises:
        UserError: none of these.
    """
    bare = {key.removeprefix("pretrained."): value for key, value in state.items()}
    named = {
        re.sub(r"^stages\.(\d+)\.", r"stages_\1.", key): value
        for key, value in bare.items()
        if not key.startswith("head.fc.")
    }
    if "patch_embed.proj.weight" not in named or not any(key.startswith("stages_0.") for key in named):
        raise UserError(
            f"{source} holds no weights of the backbone {MODEL}: neither pretrained.stages_0... (SwinTExCo's "
            f"embed_net.pth) nor stages_0... or stages.0... (timm); its first key is '{next(iter(state), '')}'"
        )
    return {f"pretrained.{key}": value for key, value in named.items()}
