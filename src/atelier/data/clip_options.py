"""Options of clips for video colouring (no torch, no OpenCV here)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from atelier.data.bundled import check_names
from atelier.data.options import CacheOptions, DatasetOptions, TrainSetOptions, ValSetOptions, expand
from atelier.data.synthetic_clips import LONGEST
from atelier.options.base import Options

if TYPE_CHECKING:
    import torch

    from atelier.data.clip_data import ClipData
    from atelier.data.clip_validation import ClipValidation
    from atelier.degrade.base import DegradationOptions


def _pair(value: Any) -> Any:
    """One number stands for a square."""
    return (value, value) if isinstance(value, int) else value


def _list(value: Any) -> Any:
    """One path stands for a list of one; ``~`` and ``$HOME`` are written out."""
    values = [value] if isinstance(value, str | Path) else value
    return [expand(Path(each)) for each in values] if isinstance(values, list | tuple) else values


def _said(options: Options, key: str) -> bool:
    """Whether a key asks for something; by its value, because a run's resolved file names every key."""
    return bool(getattr(options, key) != type(options).model_fields[key].default)


Layout = Literal["synthetic", "folders", "csv", "pairs"]
Paths = Annotated[list[Path], BeforeValidator(_list)]
#: Which of the keys that not all layouts know each of them knows.
_KEYS: dict[str, tuple[str, ...]] = {
    "synthetic": ("pictures",),
    "folders": ("roots",),
    "csv": ("roots", "reference_roots", "csv", "flow_roots", "mask_roots"),
    "pairs": ("roots", "reference_roots", "csv"),
}
Side = Annotated[int, Field(ge=16)]
Crop = Annotated[tuple[Side, Side], BeforeValidator(_pair)]


Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(ge=0, le=4)]
#: Presets of the reference's augmentation.
PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    "minimal": {"hue": 20.0, "saturation": (0.8, 1.2), "brightness": (0.9, 1.1)},
    "moderate": {
        "hue": 30.0,
        "saturation": (0.7, 1.3),
        "brightness": (0.8, 1.2),
        "permute": 0.1,
        "flip": 0.5,
    },
    "strong": {
        "hue": 30.0,
        "saturation": (0.7, 1.3),
        "brightness": (0.8, 1.2),
        "permute": 0.15,
        "flip": 0.5,
        "tps": 0.3,
        "tps_strength": 0.1,
    },
}


class AugmentOptions(Options):
    """How the reference is changed, in the order of the keys. A bare word is a preset; keys beside it override it."""

    preset: Literal["none", "minimal", "moderate", "strong"] = Field(
        "none", description="where the other keys begin; a bare word stands for it"
    )
    hue: float = Field(0.0, ge=0, le=180, description="turned by up to ± so many degrees")
    saturation: tuple[Factor, Factor] = Field((1.0, 1.0), description="lowest and highest factor")
    brightness: tuple[Factor, Factor] = Field((1.0, 1.0), description="lowest and highest factor")
    permute: Share = Field(0.0, description="probability that the channels R, G, B change places")
    flip: Share = Field(0.0, description="probability of a mirrored picture")
    tps: Share = Field(0.0, description="probability of a thin-plate spline")
    tps_strength: Share = Field(
        0.1, description="its control points move by up to 0.15 times this of the shorter side"
    )
    apply_to: Literal["reference", "both"] = Field(
        "reference", description="both: the clip gets the same change of colours (not of shape)"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"preset": data}
        if isinstance(data, dict):
            preset = PRESETS.get(data.get("preset", "none"))
            return data if preset is None else {**preset, **data}
        return data

    @field_validator("saturation", "brightness")
    @classmethod
    def _rising(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(f"the lowest factor comes first, not {value[0]:g} before {value[1]:g}")
        return value

    @property
    def changes(self) -> bool:
        """Whether anything can change."""
        factors = (self.saturation, self.brightness) != ((1.0, 1.0), (1.0, 1.0))
        return factors or any((self.hue, self.permute, self.flip, self.tps))

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core_schema))
        return cls.or_written_as(schema, {"enum": list(PRESETS)})


class ReferenceOptions(Options):
    """Which picture gives a training clip its colours; chosen once a clip, and no frame of the clip but an anchor."""

    external: float = Field(
        0.1,
        ge=0,
        le=1,
        description="probability of a picture from the list (NAME.refs, ref columns) where there is one; otherwise "
        "a frame of the same film",
    )
    min_gap: int = Field(
        3, ge=1, description="a frame of the clip's own film is at least so many frames outside the clip"
    )
    anchor: bool = Field(
        False,
        description="give the clip's first frame as an anchor besides: its true colours, pixel by pixel",
    )
    count: int = Field(1, ge=0, le=16, description="exemplars a clip; 0 only with anchor")
    augment: AugmentOptions = AugmentOptions()

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.count and not self.anchor:
            raise ValueError("count: 0 leaves a clip without any reference; set anchor: true or count: 1")
        return self


class ValReferenceOptions(Options):
    """Which picture gives a film its colours when it is measured."""

    source: Literal["first", "listed"] = Field(
        "first",
        description="first: the film's first frame; listed: its list of references, from the beginning",
    )
    role: Literal["exemplar", "anchor"] = Field(
        "exemplar",
        description="exemplar: colours by meaning; anchor: frame 0 has its true colours pixel by pixel",
    )
    count: int = Field(1, ge=1, le=16, description="how many listed references")

    @model_validator(mode="after")
    def _one_meaning(self) -> Self:
        if self.source == "listed" and self.role == "anchor":
            raise ValueError("an anchor is the film's own first frame; source: listed gives exemplars")
        if self.source == "first" and self.count != 1:
            raise ValueError("count does nothing with source: first")
        return self


class ClipsOptions(DatasetOptions):
    """Keys that training and validation sets of clips share."""

    type: Literal["clips"] = "clips"
    layout: Layout = Field(
        description="synthetic: made of bundled photographs, with exact motion; folders: folders of frames and video "
        "files; csv: a table of frames, references and perhaps motion; pairs: a table of still pictures and their "
        "references, with synthetic motion",
    )
    roots: Paths = Field(
        [],
        description="folders: what holds a folder or a video file for each film, and its references in NAME.refs; csv: "
        "what holds video_name/current_frame; pairs: what holds the pictures",
    )
    reference_roots: Paths = Field(
        [], description="csv and pairs: where the references lie; left out: in the root itself"
    )
    csv: Paths = Field([], description="csv and pairs: the table of each root; left out: the only one in it")
    flow_roots: Paths = Field(
        [], description="csv with motion: what holds video_name/flow_forward_name; left out: the root"
    )
    mask_roots: Paths = Field(
        [], description="csv with motion: what holds video_name/mask_name; left out: the root"
    )
    pictures: list[str] | None = Field(
        None, description="which bundled photographs synthetic clips are made of; null: the usual ones"
    )
    short_side: int = Field(
        224, ge=16, description="frames are resized so that the shorter side has so many pixels"
    )
    crop: Crop | None = Field(
        None,
        description="height and width cut out of the resized frames, or one number for both; frames become larger than "
        "short_side where it would not fit",
    )

    @field_validator("pictures")
    @classmethod
    def _known(cls, value: list[str] | None) -> list[str] | None:
        if value is not None:
            if not value:
                raise ValueError("the list is empty; leave it out for the usual photographs")
            check_names(value)
        return value

    @model_validator(mode="after")
    def _keys_of_the_layout(self) -> Self:
        known = _KEYS[self.layout]
        idle = [
            key for key in dict.fromkeys(sum(_KEYS.values(), ())) if key not in known and getattr(self, key)
        ]
        if idle:
            raise ValueError(f"{', '.join(idle)}: does nothing with layout {self.layout}; remove it")
        if "roots" in known and not self.roots:
            raise ValueError(f"layout {self.layout} needs roots: the folders of its material")
        for key in ("csv", "flow_roots", "mask_roots"):
            count = len(getattr(self, key))
            if count not in (0, len(self.roots)):
                raise ValueError(f"{key} lists {count}, roots {len(self.roots)}; give one for each root")
        return self

    def table(self, number: int) -> Path | None:
        """The table given for a root."""
        return self.csv[number] if self.csv else None

    def paths(self) -> dict[str, list[Path]]:
        """All that must be there."""
        keys = ("roots", "reference_roots", "csv", "flow_roots", "mask_roots")
        return {key: getattr(self, key) for key in keys if getattr(self, key)}

    def summary(self) -> str:
        """``folders videos`` or ``synthetic``."""
        return " ".join([self.layout, ", ".join(map(str, self.roots))]).strip()


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

    @model_validator(mode="after")
    def _suits_the_layout(self) -> Self:
        if self.layout not in ("synthetic", "pairs"):
            return self
        height, width = self.crop_size
        if height != width:
            raise ValueError(f"layout {self.layout} makes square frames, not {height}x{width}")
        if self.reference.count > 1:
            raise ValueError(
                f"layout {self.layout} has one reference a clip, not reference.count {self.reference.count}"
            )
        if _said(self.reference, "external"):
            raise ValueError(f"reference.external does nothing with layout {self.layout}; remove it")
        if self.layout == "pairs" and _said(self.reference, "min_gap"):
            raise ValueError("reference.min_gap does nothing with layout pairs; remove it")
        frames = self.clip_length + (self.reference.min_gap if self.layout == "synthetic" else 0)
        if frames > LONGEST:
            raise ValueError(
                f"synthetic clips have at most {LONGEST} frames, and the reference's gap counts; asked for {frames}"
            )
        return self

    def notes(self) -> list[str]:
        """Augmentation that the loss contradicts."""
        augment = self.reference.augment
        named = [key for key in ("hue", "permute") if getattr(augment, key)]
        if not named or augment.apply_to == "both":
            return []
        verb = "gives" if len(named) == 1 else "give"
        return [
            f"data set '{self.name}': reference.augment: {' and '.join(named)} {verb} the reference other colours than "
            "the clip has, which a loss on the true colours (l1) contradicts; apply_to: both changes the clip as well"
        ]

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
        if not quiet:
            for note in source.notes:
                print(f"note: data set '{self.name}': {note}", file=sys.stderr)
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
        if self.layout == "pairs":
            raise ValueError("layout pairs is for training; measure on films")
        if self.layout == "synthetic":
            if self.clip_length is None or self.clip_length > LONGEST:
                raise ValueError(f"synthetic clips have at most {LONGEST} frames; set clip_length")
            if self.crop is not None and self.crop[0] != self.crop[1]:
                raise ValueError(f"layout synthetic makes square frames, not {self.crop[0]}x{self.crop[1]}")
            if self.reference.source == "listed":
                raise ValueError("synthetic clips list no references; reference.source is first")
        else:
            idle = [key for key in ("clips", "seed") if _said(self, key)]
            if idle:
                raise ValueError(f"{', '.join(idle)}: for layout synthetic alone; remove it")
        return self

    def open(self, *, cache: CacheOptions | None = None, quiet: bool = False) -> ClipValidation:
        """The films.

        Raises:
            UserError: anything wrong with the material, all of it in one message.
        """
        from atelier.data.clip_layouts import open_validation

        return open_validation(self, cache or CacheOptions(), quiet=quiet)
