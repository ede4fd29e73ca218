"""Options of clips for video colouring (no torch, no OpenCV here)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from atelier.data.bundled import check_names
from atelier.data.options import CacheOptions, DatasetOptions, TrainSetOptions, ValSetOptions
from atelier.options.base import Options

if TYPE_CHECKING:
    import torch

    from atelier.data.clip_data import ClipData
    from atelier.data.clip_validation import ClipValidation
    from atelier.degrade.base import DegradationOptions


def _pair(value: Any) -> Any:
    """One number stands for a square."""
    return (value, value) if isinstance(value, int) else value


Side = Annotated[int, Field(ge=16)]
Crop = Annotated[tuple[Side, Side], BeforeValidator(_pair)]


class ReferenceOptions(Options):
    """Which picture gives a training clip its colours; chosen once a clip."""

    min_gap: int = Field(
        3, ge=1, description="a frame of the clip's own film is at least so many frames outside the clip"
    )
    anchor: bool = Field(
        False,
        description="give the clip's first frame as an anchor besides: its true colours, pixel by pixel",
    )
    count: int = Field(1, ge=0, le=16, description="exemplars a clip; 0 only with anchor")

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.count and not self.anchor:
            raise ValueError("count: 0 leaves a clip without any reference; set anchor: true or count: 1")
        return self


class ValReferenceOptions(Options):
    """Which picture gives a film its colours when it is measured."""

    role: Literal["exemplar", "anchor"] = Field(
        "exemplar",
        description="exemplar: colours by meaning; anchor: frame 0 has its true colours pixel by pixel",
    )


class ClipsOptions(DatasetOptions):
    """Keys that training and validation sets of clips share."""

    type: Literal["clips"] = "clips"
    layout: Literal["synthetic"] = Field(
        description="synthetic: made of bundled photographs, with exact motion; no files",
    )
    pictures: list[str] | None = Field(
        None, description="which bundled photographs synthetic clips are made of; null: the usual ones"
    )
    short_side: int = Field(
        224, ge=16, description="frames are resized so that the shorter side has so many pixels"
    )
    crop: Crop | None = Field(
        None, description="height and width cut out of the resized frames, or one number for both"
    )

    @field_validator("pictures")
    @classmethod
    def _known(cls, value: list[str] | None) -> list[str] | None:
        if value is not None:
            if not value:
                raise ValueError("the list is empty; leave it out for the usual photographs")
            check_names(value)
        return value

    def summary(self) -> str:
        """``synthetic``."""
        return self.layout


class TrainClipsOptions(ClipsOptions, TrainSetOptions):
    """``datasets.train``: short clips of films, each with the reference it takes its colours from."""

    name: str = "train"
    batch_size_per_gpu: int = Field(4, ge=1, description="clips per step on each process")
    clip_length: int = Field(4, description="frames of a clip, at least 2")
    reference: ReferenceOptions = ReferenceOptions()
    use_hflip: bool = Field(True, description="mirror clips left-right with probability 1/2")
    lightness_gain: float = Field(
        0.0, ge=0, lt=1, description="L that the network sees is multiplied by 1 ± up to this"
    )
    lightness_noise: float = Field(
        0.0,
        ge=0,
        le=1,
        description="standard deviation of noise added to L (of -1...1) that the network sees",
    )
    flows: bool = Field(
        True, description="loader processes find the motion, where the network's flow needs lightness alone"
    )

    @field_validator("clip_length")
    @classmethod
    def _moving(cls, value: int) -> int:
        if value < 2:
            raise ValueError(
                f"a clip of {value} frame has no motion to learn from; set clip_length to 2 or more"
            )
        return value

    @property
    def crop_size(self) -> tuple[int, int]:
        """Height and width of samples: ``crop``, else a square of ``short_side``."""
        return self.crop or (self.short_side, self.short_side)

    def check_fit(self, scale: int, size_multiple: int) -> None:
        """Clips are coloured at their own size, and crops must suit the network."""
        if scale != 1:
            raise ValueError(
                f"datasets.train.type clips is for networks that keep the size, not for scale {scale}"
            )
        for side in self.crop_size:
            if side % size_multiple:
                nearest = max(1, round(side / size_multiple)) * size_multiple
                raise ValueError(
                    f"datasets.train: clips of {self.crop_size[0]}x{self.crop_size[1]} do not fit a network that needs "
                    f"multiples of {size_multiple}; the nearest side is {nearest} (crop, or short_side without crop)"
                )

    @property
    def sample_size(self) -> str:
        """``clips of 4 frames of 224x224``."""
        height, width = self.crop_size
        return f"clips of {self.clip_length} frames of {height}x{width}"

    def open(
        self,
        *,
        scale: int,
        degradation: DegradationOptions,
        seed: int,
        global_batch: int,
        in_channels: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        cache: CacheOptions | None = None,
        quiet: bool = False,
    ) -> ClipData:
        """The clips; scale, degradation and in_channels say nothing about them."""
        from atelier.data.clip_data import ClipData
        from atelier.data.clip_layouts import open_training

        source = open_training(self, cache or CacheOptions(), quiet=quiet)
        return ClipData(
            self, source, seed=seed, global_batch=global_batch, rank=rank, world=world, device=device
        )


class ValClipsOptions(ClipsOptions, ValSetOptions):
    """``datasets.val``: whole films to measure on."""

    name: str = "val"
    short_side: int = Field(
        96, ge=16, description="frames are resized so that the shorter side has so many pixels"
    )
    clip_length: int | None = Field(
        24, ge=2, description="measure the first so many frames of a film; null: all of them"
    )
    clips: int = Field(3, ge=1, description="how many synthetic clips")
    seed: int = Field(0, ge=0, description="of synthetic clips; the run's seed does not change them")
    reference: ValReferenceOptions = ValReferenceOptions()

    @model_validator(mode="after")
    def _no_idle_keys(self) -> Self:
        if self.middle is not None:
            raise ValueError("middle does nothing for clips; use crop")
        return self

    def open(self, *, cache: CacheOptions | None = None, quiet: bool = False) -> ClipValidation:
        """The films.

        Raises:
            UserError: anything wrong with the material, all of it in one message.
        """
        from atelier.data.clip_layouts import open_validation

        return open_validation(self, cache or CacheOptions(), quiet=quiet)
