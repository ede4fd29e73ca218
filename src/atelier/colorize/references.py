"""Colour pictures given to a clip, and what each may be used for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from atelier.errors import UserError


@dataclass(frozen=True)
class Anchor:
    """The picture is frame ``frame`` of the clip itself, in true colours: that frame takes them pixel by pixel."""

    frame: int

    def __post_init__(self) -> None:
        if self.frame < 0:
            raise UserError(f"an anchor's frame counts from 0, given {self.frame}")


Role = Literal["exemplar"] | Anchor


@dataclass(frozen=True)
class References:
    """Reference pictures of a batch of clips. Every one is a source of colours by meaning; anchors fix a frame besides.

    Attributes:
        lab: ``[B, R, 3, H, W]`` in unit LAB (L/50 - 1, ab/127); H and W may differ from the clip's.
        roles: one for each of the R pictures, the same for the whole batch.
        valid: ``[B, R, 1, H, W]`` bool, False where a picture was padded; None where all pixels count.

    Raises:
        UserError: shapes or roles do not fit each other, or two anchors pin the same frame.
    """

    lab: Tensor
    roles: tuple[Role, ...]
    valid: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.lab.shape)
        if self.lab.ndim != 5 or shape[2] != 3 or shape[1] == 0:
            raise UserError(f"references must be [B, R, 3, H, W] with at least one picture, not {shape}")
        if len(self.roles) != shape[1]:
            raise UserError(f"{shape[1]} reference pictures need as many roles, given {len(self.roles)}")
        for role in self.roles:
            if role != "exemplar" and not isinstance(role, Anchor):
                raise UserError(f"a reference's role is 'exemplar' or Anchor(frame), not {role!r}")
        if self.valid is not None and tuple(self.valid.shape) != (*shape[:2], 1, *shape[3:]):
            raise UserError(f"valid must be {(*shape[:2], 1, *shape[3:])}, not {tuple(self.valid.shape)}")
        frames = [role.frame for role in self.roles if isinstance(role, Anchor)]
        twice = sorted({frame for frame in frames if frames.count(frame) > 1})
        if twice:
            raise UserError(f"two anchors pin frame {twice[0]}; one picture a frame")

    @classmethod
    def stack(cls, pictures: Sequence[Tensor], roles: Sequence[Role] | None = None) -> References:
        """References of one clip from pictures ``[3, h, w]`` in unit LAB of any sizes; padded right and below.

        Args:
            pictures: at least one.
            roles: one for each; None: all exemplars.
        """
        if not pictures:
            raise UserError("at least one reference picture is needed")
        for picture in pictures:
            if picture.ndim != 3 or picture.shape[0] != 3:
                raise UserError(f"a reference picture must be [3, H, W], not {tuple(picture.shape)}")
        height = max(picture.shape[1] for picture in pictures)
        width = max(picture.shape[2] for picture in pictures)
        lab, valid = [], []
        for picture in pictures:
            padding = (0, width - picture.shape[2], 0, height - picture.shape[1])
            lab.append(F.pad(picture, padding))
            valid.append(F.pad(torch.ones_like(picture[:1], dtype=torch.bool), padding, value=False))
        mask = torch.stack(valid)[None]
        exemplars: list[Role] = ["exemplar" for _ in pictures]
        return cls(
            torch.stack(lab)[None],
            tuple(exemplars if roles is None else roles),
            None if bool(mask.all()) else mask,
        )

    @property
    def anchors(self) -> dict[int, int]:
        """Frame -> number of the picture that fixes it."""
        return {role.frame: r for r, role in enumerate(self.roles) if isinstance(role, Anchor)}

    def anchor_lab(self, frame: int, size: tuple[int, int]) -> Tensor | None:
        """The true picture ``[B, 3, H, W]`` of a frame of ``size`` (height, width); None where nothing pins it.

        Raises:
            UserError: the anchor is not as large as the frame.
        """
        place = self.anchors.get(frame)
        if place is None:
            return None
        whole, mask = self.lab[:, place], None if self.valid is None else self.valid[:, place]
        height, width = size
        fits = whole.shape[-2] >= height and whole.shape[-1] >= width
        if fits and mask is None:
            fits = tuple(whole.shape[-2:]) == (height, width)
        elif fits and mask is not None:
            cut = mask[..., :height, :width]
            fits = bool(cut.all()) and int(mask.sum()) == cut.numel()
        if not fits:
            raise UserError(
                f"the anchor of frame {frame} must have the frame's size {width}x{height} (width x height)"
            )
        return whole[..., :height, :width]

    def to(self, device: torch.device | str) -> References:
        """The same on ``device``."""
        valid = None if self.valid is None else self.valid.to(device)
        return replace(self, lab=self.lab.to(device), valid=valid)
