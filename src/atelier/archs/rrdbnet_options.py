"""Options of RRDBNet, the network of ESRGAN and Real-ESRGAN, and the older names of its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from atelier.archs.network_options import NetworkOptions, Shapes
from atelier.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from atelier.archs.rrdbnet import RRDBNet

_OLD_BLOCK = re.compile(r"RRDB_trunk\.(\d+)\.RDB([123])\.")
_OLD_NAMES = {
    "trunk_conv.": "conv_body.",
    "upconv1.": "conv_up1.",
    "upconv2.": "conv_up2.",
    "HRconv.": "conv_hr.",
}


class RRDBNetOptions(NetworkOptions):
    """``num_block`` blocks of three dense blocks, whose convolutions add ``num_grow_ch`` channels each."""

    scale_key: ClassVar[str | None] = "scale"

    type: Literal["RRDBNet"] = "RRDBNet"
    num_in_ch: int = Field(3, ge=1)
    num_out_ch: int = Field(3, ge=1)
    scale: Literal[1, 2, 4] = 4
    num_feat: int = Field(64, ge=1)
    num_block: int = Field(23, ge=1)
    num_grow_ch: int = Field(32, ge=1)

    def build(self) -> RRDBNet:
        """The network; convolutions of dense blocks start at a tenth of Kaiming's deviation, biases there at 0."""
        from atelier.archs.rrdbnet import RRDBNet

        return RRDBNet(**self.model_dump(exclude={"type"}))

    @property
    def unshuffle(self) -> int:
        """Side of the squares of input pixels that become channels: the trunk always enlarges four times."""
        return 4 // self.scale

    @property
    def in_channels(self) -> int:
        """``num_in_ch``."""
        return self.num_in_ch

    @property
    def out_channels(self) -> int:
        """``num_out_ch``."""
        return self.num_out_ch

    @property
    def size_multiple(self) -> int:
        """Tiles must start where a square of unshuffled pixels starts."""
        return self.unshuffle

    @property
    def stages(self) -> tuple[str, ...]:
        """The blocks ``body.*``."""
        return tuple(f"body.{block}" for block in range(self.num_block))

    @property
    def receptive_radius(self) -> int:
        """In pixels of the trunk: 15 a block, 2 around the blocks, and 2 for the four convolutions after them.

        Only the outermost results inside a pixel of the trunk see those last 2, so a square of unshuffled pixels adds
        nothing to its side times that number.
        """
        return self.unshuffle * (15 * self.num_block + 4)

    @classmethod
    def recognises(cls, shapes: Shapes) -> bool:
        """The names of BasicSR and Real-ESRGAN, or the older ones of KAIR and BSRGAN, with two doublings.

        BSRGAN's x2 network has one doubling; it and files of ESRGAN's first layout load through spandrel.
        """
        names = {_new_name(key) for key in shapes}
        return {
            "conv_first.weight",
            "body.0.rdb1.conv1.weight",
            "conv_body.weight",
            "conv_up2.weight",
            "conv_last.weight",
        } <= names

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> Self:
        """All options. A first convolution with 4 or 16 times the channels of the last one follows an unshuffle."""
        named = {_new_name(key): shape for key, shape in shapes.items()}
        num_feat, first = named["conv_first.weight"][:2]
        num_out_ch = named["conv_last.weight"][0]
        unshuffle = {4 * num_out_ch: 2, 16 * num_out_ch: 4}.get(first, 1)
        num_block = 1 + max(int(key.split(".")[1]) for key in named if key.startswith("body."))
        if named["conv_last.weight"][1] != num_feat:
            raise UserError(
                f"its last convolution takes {named['conv_last.weight'][1]} channels, its first gives {num_feat}"
            )
        return cls.model_validate(
            {
                "num_in_ch": first // unshuffle**2,
                "num_out_ch": num_out_ch,
                "scale": 4 // unshuffle,
                "num_feat": num_feat,
                "num_block": num_block,
                "num_grow_ch": named["body.0.rdb1.conv1.weight"][0],
            }
        )

    def network_state(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """``state`` under the names of BasicSR and Real-ESRGAN; nothing is ignored."""
        return {_new_name(key): value for key, value in state.items()}, {}


def _new_name(key: str) -> str:
    """Today's name of a tensor that may have an older one (``RRDB_trunk.0.RDB1.conv1.weight``)."""
    for old, new in _OLD_NAMES.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return _OLD_BLOCK.sub(r"body.\1.rdb\2.", key)
