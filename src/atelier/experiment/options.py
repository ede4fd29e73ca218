"""The study file: arms, seeds, budget, what is measured and what is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from atelier.data.options import ValImagesOptions
from atelier.errors import UserError, did_you_mean
from atelier.metrics.options import METRICS
from atelier.options.base import Options
from atelier.options.messages import validate_tree
from atelier.options.overrides import apply_overrides
from atelier.options.schema import Metric
from atelier.options.source import read_option_file

Seed = Annotated[int, Field(ge=0)]
Seeds = Annotated[list[Seed], Field(min_length=1)]

#: Folders of a study that are no arm.
STUDY_FOLDER = "study"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_TIME = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
#: How the spec of a set may be written shorter.
_SHORT = {"gt": "dataroot_gt", "lq": "dataroot_lq"}


class ArmOptions(Options):
    """One arm: the keys below, and any number of overrides of the base (``train.optim_g.lr: 1e-3``)."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Any]

    file: Path | None = Field(None, description="another option file than the base")
    seeds: Seeds | None = Field(
        None, description="seeds of its own: the arm is then compared unpaired (Welch)"
    )
    other_data: bool = Field(False, description="true: this arm is meant to train on other data")

    @property
    def overrides(self) -> dict[str, Any]:
        """The declared change: dotted key -> value."""
        return dict(self.__pydantic_extra__ or {})


class BudgetOptions(Options):
    """How long an arm trains: steps, or what so much time buys it."""

    steps: int | None = Field(None, ge=1, description="null: the base's train.total_iter")
    wall_time: str | None = Field(None, description="time of one run, such as 90s, 30m, 4h or 1.5d")
    equal: Literal["steps", "wall_time", "compute"] = Field(
        "steps", description="what all arms get alike: as much as the dearest needs for these steps"
    )

    @model_validator(mode="after")
    def _one(self) -> BudgetOptions:
        if self.wall_time is not None and _TIME.fullmatch(self.wall_time) is None:
            raise ValueError(f"wall_time '{self.wall_time}' is no time; write it as 90s, 30m, 4h or 1.5d")
        if self.wall_time is not None and (self.steps is not None or self.equal != "steps"):
            raise ValueError(
                "wall_time stands alone; steps with equal: wall_time gives every arm the time of the dearest"
            )
        return self

    @property
    def seconds(self) -> float | None:
        """``wall_time`` in seconds."""
        match = _TIME.fullmatch(self.wall_time) if self.wall_time is not None else None
        return float(match[1]) * _SECONDS[match[2]] if match is not None else None


class PrimaryOptions(Options):
    """The one number that the verdict is about."""

    metric: str = Field("psnr_y", description="one of metrics")
    weights: Literal["ema", "raw"] = Field("ema", description="averaged weights, or weights as trained")
    checkpoint: Literal["last", "best"] = Field("last", description="best: the one that validation chose")


class PictureOptions(Options):
    """A picture that the report shows, written ``SET/PICTURE`` or in full."""

    image: str = Field(description="SET/PICTURE, as the report names it")
    at: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | None = Field(
        None, description="left and top of the enlarged crop in gt pixels; null: where the arms differ most"
    )


class StudyOptions(Options):
    """One study."""

    name: str = Field(description="folder name under experiments/")
    base: Path = Field(description="the option file that every arm starts from")
    seeds: Seeds
    arms: dict[str, ArmOptions]
    reference: str | None = Field(None, description="the arm the others are compared with; null: the first")
    budget: BudgetOptions = BudgetOptions()
    primary: PrimaryOptions = PrimaryOptions()
    metrics: dict[str, Metric] = Field(
        default_factory=lambda: {
            f"{kind}_{colour}": METRICS.options_class(kind)(type=kind, test_y_channel=colour == "y")
            for colour in ("y", "rgb")
            for kind in ("psnr", "ssim")
        },
        description="name -> metric, measured on the test sets",
    )
    test: dict[str, ValImagesOptions] = Field(
        min_length=1,
        description="sets of pictures, touched once, after training; gt and lq name their folders",
    )
    min_effect: float = Field(
        0.01,
        ge=0,
        allow_inf_nan=False,
        description="smaller differences of the primary metric are nobody's gain",
    )
    contrasts: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = Field(
        default_factory=list, description="pairs of arms that are compared as planned beforehand"
    )
    pictures: list[PictureOptions] = Field(
        default_factory=list,
        description="test pictures that the report shows beside those chosen by rule: SET/PICTURE, or image and at",
    )
    teacher: Path | None = Field(
        None, description="weights that the gap closed is measured to; null: the arms' own teacher"
    )

    @model_validator(mode="before")
    @classmethod
    def _written_short(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        changed = dict(data)
        if isinstance(data.get("arms"), Mapping):
            # An arm without any change is written with nothing behind its colon.
            changed["arms"] = {name: {} if arm is None else arm for name, arm in data["arms"].items()}
        if isinstance(data.get("test"), Mapping):
            changed["test"] = {
                name: {_SHORT.get(key, key): value for key, value in each.items()}
                if isinstance(each, Mapping)
                else each
                for name, each in data["test"].items()
            }
        return changed

    @field_validator("pictures", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [{"image": each} if isinstance(each, str) else each for each in value]
        return value

    @field_validator("name")
    @classmethod
    def _folder(cls, value: str) -> str:
        return _usable(value, "a study's name")

    @field_validator("seeds")
    @classmethod
    def _once(cls, value: list[int]) -> list[int]:
        return _distinct(value)

    @field_validator("arms")
    @classmethod
    def _arms(cls, value: dict[str, ArmOptions]) -> dict[str, ArmOptions]:
        if len(value) < 2:
            raise ValueError(f"a study compares at least two arms, given {len(value)}")
        for name, arm in value.items():
            _usable(name, "an arm's name")
            if name == STUDY_FOLDER:
                raise ValueError(f"an arm cannot be called '{name}': the study keeps its own files there")
            if arm.seeds is not None:
                _distinct(arm.seeds)
        return value

    @model_validator(mode="after")
    def _names(self) -> StudyOptions:
        named = [(self.reference, "reference")] if self.reference is not None else []
        named += [(name, "contrasts") for pair in self.contrasts for name in pair]
        for name, key in named:
            if name not in self.arms:
                raise ValueError(
                    f"{key} names the arm '{name}', which does not exist{did_you_mean(str(name), self.arms)} arms: "
                    f"{', '.join(self.arms)}"
                )
        for each in self.pictures:
            test, slash, image = each.image.partition("/")
            if not slash or not image or test not in self.test:
                raise ValueError(
                    f"pictures: '{each.image}' names no picture of a test set"
                    f"{did_you_mean(test, self.test)} write SET/PICTURE; test sets: {', '.join(self.test)}"
                )
        for one, other in self.contrasts:
            if one == other:
                raise ValueError(f"contrasts compares the arm '{one}' with itself")
        if self.primary.metric not in self.metrics:
            raise ValueError(
                f"primary.metric '{self.primary.metric}' is not measured"
                f"{did_you_mean(self.primary.metric, self.metrics)} metrics: {', '.join(self.metrics)}"
            )
        return self

    @property
    def reference_arm(self) -> str:
        """The arm that the others are compared with."""
        return self.reference or next(iter(self.arms))

    def seeds_of(self, arm: str) -> list[int]:
        """The seeds of an arm: its own, else the study's."""
        return self.arms[arm].seeds or self.seeds

    def is_paired(self, arm: str, other: str) -> bool:
        """Whether two arms share their seeds, so that differences within a seed mean something."""
        return self.arms[arm].seeds == self.arms[other].seeds or self.seeds_of(arm) == self.seeds_of(other)


def load_study(source: str | Path | dict[str, Any] | StudyOptions) -> StudyOptions:
    """Read and check a study file (YAML or JSON), or its content as a dict.

    Raises:
        UserError: every problem at once, naming file, line and key.
    """
    if isinstance(source, StudyOptions):
        return source
    written = source if isinstance(source, dict) else read_option_file(source)
    tree = apply_overrides(written, [])
    if "arms" not in tree.data and "base" not in tree.data and {"network_g", "netG"} & set(tree.data):
        raise UserError(
            f"{tree.name or 'the options'}: one run's options, not a study (base, arms, seeds, test); a study names "
            "such a file as its base"
        )
    study = validate_tree(StudyOptions, tree)
    if tree.name is None:
        return study
    folder = Path(tree.name).parent
    arms = {
        name: arm.model_copy(update={"file": _located(arm.file, folder)}) if arm.file is not None else arm
        for name, arm in study.arms.items()
    }
    return study.model_copy(update={"base": _located(study.base, folder), "arms": arms})


def _located(path: Path, folder: Path) -> Path:
    """As all paths in option files from the working directory; where nothing is there, beside the study file."""
    path = path.expanduser()
    return path if path.exists() or not (folder / path).exists() else folder / path


def _usable(name: str, what: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{what} is a folder's name: letters, digits and _ . + -, given '{name}'")
    return name


def _distinct(seeds: list[int]) -> list[int]:
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise ValueError(f"seeds given twice: {', '.join(map(str, twice))}")
    return seeds
