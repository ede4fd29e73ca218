"""Options of exemplar matching, and the table of matchers. No torch here: option files are checked without it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from atelier.errors import UserError
from atelier.options.base import Component, Registry

if TYPE_CHECKING:
    from atelier.colorize.matcher import ExemplarMatcher

#: Temperatures at which the softmax teaches (Zhang et al. 2019 train at 0.01).
TRAINING_TEMPERATURES = (0.005, 0.05)


class ExemplarOptions(Component):
    """How colours are fetched from the references."""

    attention_chunk: int = Field(
        1024,
        ge=1,
        description="positions of the frame that are compared at once; bounds memory, changes no result",
    )

    @abstractmethod
    def build(self) -> ExemplarMatcher:
        """The matcher, on the CPU, with its weights."""

    def vacant(self, shapes: Mapping[str, tuple[int, ...]]) -> ExemplarMatcher:
        """The same with any weights, without reading a file: they will be filled in from one with these ``shapes``."""
        return self.build()

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """Names of its children that do not learn."""
        return ()

    @property
    def usual_rate(self) -> float | None:
        """The learning rate that suits its beginning; None: the run's."""
        return None


class TinyExemplarOptions(ExemplarOptions):
    """The small network: luminance texture, references of the same scene, no weights from elsewhere."""

    type: Literal["tiny"] = "tiny"
    seed: int = Field(0, ge=0, description="of its filters before training")

    def build(self) -> ExemplarMatcher:
        """The matcher with filters drawn from ``seed``."""
        from atelier.colorize.matcher_tiny import TinyMatcher

        return TinyMatcher(self)


class SwinTExCoOptions(ExemplarOptions):
    """SwinTExCo: a frozen Swin transformer (timm) and WarpNet, which compare by meaning."""

    type: Literal["swintexco"] = "swintexco"
    checkpoint: Path | None = Field(
        None,
        description="folder with embed_net.pth, nonlocal_net.pth and, optional, colornet.pth; null: train anew",
    )
    backbone_weights: Path | None = Field(
        None, description="weights of the Swin transformer; null: the folder's, else timm's cache or hub"
    )
    allow_random_backbone: bool = Field(
        False,
        description="where neither folder, file nor timm's cache has weights: draw them (no network is asked)",
    )
    temperature: float = Field(0.01, description="of the softmax in training, 0.005 to 0.05")
    inference_temperature: float = Field(
        0.01, ge=0, le=1, description="outside training; 1e-6 and less copies the best match"
    )
    freeze: bool = Field(False, description="the matching network does not learn either")

    @field_validator("temperature")
    @classmethod
    def _must_teach(cls, value: float) -> float:
        low, high = TRAINING_TEMPERATURES
        if not low <= value <= high:
            raise ValueError(
                f"temperature {value:g} is for training and must be from {low} to {high}: below, the softmax copies "
                f"one colour and no gradient comes through; for results use inference_temperature"
            )
        return value

    def backbone_file(self) -> Path | None:
        """The file with the Swin transformer's weights; None: they are to be drawn.

        Loads neither torch nor timm, so a command may ask at its start.

        Raises:
            UserError: timm is not installed, ``checkpoint`` is no folder, or there are no weights; within seconds.
        """
        from atelier.archs.swintexco_backbone import find_backbone, require_timm

        require_timm()
        if self.checkpoint is not None and not self.checkpoint.is_dir():
            raise UserError(
                f"exemplar.checkpoint {self.checkpoint} is no folder; it must hold embed_net.pth and nonlocal_net.pth"
            )
        if self.backbone_weights is not None:
            return self.backbone_weights
        if self.checkpoint is not None:
            return self.checkpoint / "embed_net.pth"
        try:
            return find_backbone(download=not self.allow_random_backbone)
        except UserError:
            if self.allow_random_backbone:
                return None
            raise

    def lacking(self) -> list[str]:
        """``backbone_weights: ...`` where no file of the Swin transformer is named or in timm's cache."""
        if self.backbone_weights is not None or self.checkpoint is not None or self.allow_random_backbone:
            return []
        from atelier.archs.swintexco_backbone import find_backbone, require_timm

        try:
            require_timm()
            find_backbone(download=False)
        except UserError as error:
            return [f"backbone_weights: left out, and a run would have to fetch it: {error}"]
        return []

    def build(self) -> ExemplarMatcher:
        """The matcher with its weights.

        Raises:
            UserError: timm or weights are missing, or a file does not fit; see :mod:`.matcher_swintexco`.
        """
        # Before torch is loaded: what is missing shall be told at once.
        backbone = self.backbone_file()
        from atelier.colorize.matcher_swintexco import build_swintexco

        return build_swintexco(self, backbone)

    def vacant(self, shapes: Mapping[str, tuple[int, ...]]) -> ExemplarMatcher:
        """See the base class; ColorVidNet is built where ``shapes`` have it."""
        from atelier.archs.swintexco_backbone import require_timm

        require_timm()
        from atelier.colorize.matcher_swintexco import vacant_swintexco

        return vacant_swintexco(self, shapes)

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """The features and ColorVidNet; with ``freeze`` the matching network too."""
        return ("embed_net", "colornet", *(("nonlocal_net",) if self.freeze else ()))

    @property
    def usual_rate(self) -> float | None:
        """1e-5 for trained weights, 1e-4 from scratch."""
        return 1e-5 if self.checkpoint is not None else 1e-4


EXEMPLARS: Registry[ExemplarOptions] = Registry(
    "exemplar matcher",
    {
        "tiny": "atelier.colorize.matcher_options:TinyExemplarOptions",
        "swintexco": "atelier.colorize.matcher_options:SwinTExCoOptions",
    },
)
