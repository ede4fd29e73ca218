"""Options of the data sets and of the shard cache (no torch, no OpenCV here)."""

from __future__ import annotations

import os
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AliasChoices, Field, SerializeAsAny, field_validator, model_validator

from atelier.data.bundled import TRAIN_DEFAULT, VAL_DEFAULT, check_names
from atelier.data.templates import TEMPLATE_RULE, is_template
from atelier.degrade.base import DEGRADATIONS, DegradationOptions
from atelier.options.base import Component, Options, Registered, Registry

if TYPE_CHECKING:
    import torch

    from atelier.data.loader import TrainingData
    from atelier.data.stream import SampleStream


def expand(path: Path) -> Path:
    """``~`` and ``$HOME`` written out; relative paths stay relative to the working directory."""
    return Path(os.path.expandvars(path)).expanduser()


class CacheOptions(Options):
    """The shard cache: decoded pixels on disk, memory-mapped, so that a crop costs no decoding."""

    enabled: bool = Field(True, description="false decodes the picture file for every crop")
    folder: Path | None = Field(None, description="default: $ATELIER_CACHE, else ~/.cache/atelier")
    max_gb: float = Field(
        50.0, gt=0, description="disk space (10^9 bytes) all caches in the folder may take together"
    )

    @property
    def root(self) -> Path:
        """The folder that holds the caches."""
        if self.folder is not None:
            return expand(self.folder)
        if os.environ.get("ATELIER_CACHE"):
            return expand(Path(os.environ["ATELIER_CACHE"]))
        return expand(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "atelier"


class DatasetOptions(Component):
    """Options of one data set, whatever it holds."""

    name: str

    @property
    def needs_degradation(self) -> bool:
        """Whether the run's degradation makes what the network gets."""
        return False

    def paths(self) -> dict[str, list[Path]]:
        """By key, the files and folders that must be there."""
        return {}

    def summary(self) -> str:
        """Where the material comes from, in a few words."""
        return self.type

    def notes(self) -> list[str]:
        """What is allowed but probably not meant, one sentence each."""
        return []


class TrainSetOptions(DatasetOptions):
    """``datasets.train``, whatever it holds: how samples are grouped and prepared."""

    name: str = "train"
    batch_size_per_gpu: int = Field(16, ge=1, description="samples per step on each process")
    num_worker_per_gpu: Literal["auto"] | int = Field(
        "auto",
        description="loader processes; auto: cores less two, at most 8; 0: in the main process",
    )
    prefetch: int = Field(2, ge=1, le=64, description="batches each worker prepares ahead")
    pin_memory: bool = Field(True, description="page-locked transfer buffers (used with a GPU only)")

    @field_validator("num_worker_per_gpu")
    @classmethod
    def _not_negative(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 0 <= value <= 256:
            raise ValueError("num_worker_per_gpu must be 'auto' or between 0 and 256")
        return value

    @property
    def workers(self) -> int:
        """The number of loader processes: as given, or chosen from the cores this process may use.

        ``auto`` shares the cores among the ranks of this machine and leaves two of each rank's to the main process;
        with two cores or less a worker would only take from the computing what it gives to the loading.
        """
        if self.num_worker_per_gpu != "auto":
            return self.num_worker_per_gpu
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        ranks_here = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        return min(8, max(0, cores // ranks_here - 2))

    def check_fit(self, scale: int, size_multiple: int) -> None:
        """Raise ValueError where samples do not fit a network of this scale whose windows are ``size_multiple``."""

    @property
    def sample_size(self) -> str:
        """What one sample is, for a line of text."""
        return "samples"

    @abstractmethod
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
    ) -> SampleStream:
        """The samples themselves, shared out over ``world`` processes.

        Raises:
            UserError: anything wrong with the material, all of it in one message.
        """


class ImagesOptions(DatasetOptions):
    """Keys that training and validation sets of pictures share: where the pictures are and how they pair."""

    type: Literal["images"] = "images"
    dataroot_gt: Literal["bundled"] | Path | list[Path] = Field(
        description="clean pictures: a folder (read with its subfolders), an .lmdb folder, a picture, a list "
        "of these, or the word bundled (scikit-image's photographs)",
    )
    dataroot_lq: Path | list[Path] | None = Field(
        None, description="degraded pictures of the same scenes; left out: the run's degradation makes them"
    )
    pictures: list[str] | None = Field(
        None, description="which bundled photographs (only with dataroot_gt: bundled)"
    )
    meta_info: Path | None = Field(
        None,
        validation_alias=AliasChoices("meta_info", "meta_info_file"),
        description="text file naming the pictures below dataroot_gt, one a line: 'name', "
        "'name (h,w,c)', or 'gt, lq'",
    )
    filename_tmpl: str = Field(
        "{}", description="lq file name without suffix for the gt name {}, e.g. '{}x4'"
    )
    convert_channels: bool = Field(
        False,
        description="true: grey pictures become RGB and alpha is dropped for a 3-channel network; "
        "false: such pictures are an error",
    )
    grey_from: Literal["luma", "y", "mixed"] = Field(
        "luma",
        description="how colour pictures become grey for a 1-channel network: luma (0 to 255), y (BT.601 studio "
        "range, 16 to 235), mixed (training: either, per sample)",
    )

    @field_validator("dataroot_gt", "dataroot_lq", "meta_info")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        if isinstance(value, list):
            if not value:
                raise ValueError("the list of paths is empty")
            return [expand(path) for path in value]
        return expand(value) if isinstance(value, Path) else value

    @field_validator("filename_tmpl")
    @classmethod
    def _one_hole(cls, value: str) -> str:
        if not is_template(value):
            raise ValueError(f"filename_tmpl {TEMPLATE_RULE}")
        return value

    @field_validator("pictures")
    @classmethod
    def _known(cls, value: list[str] | None) -> list[str] | None:
        if value is not None:
            if not value:
                raise ValueError("the list is empty; leave it out for the default photographs")
            check_names(value)
        return value

    @model_validator(mode="after")
    def _no_idle_keys(self) -> ImagesOptions:
        bundled = self.dataroot_gt == "bundled"
        if self.pictures is not None and not bundled:
            raise ValueError(
                "pictures does nothing unless dataroot_gt is bundled; use meta_info to choose files"
            )
        for key in ("dataroot_lq", "meta_info"):
            if bundled and getattr(self, key) is not None:
                raise ValueError(f"{key} does nothing with dataroot_gt: bundled; use pictures to choose some")
        if self.filename_tmpl != "{}" and self.dataroot_lq is None:
            raise ValueError("filename_tmpl does nothing without dataroot_lq")
        return self

    @property
    def default_pictures(self) -> tuple[str, ...]:
        """The bundled photographs meant when ``pictures`` is left out."""
        return TRAIN_DEFAULT

    @property
    def needs_degradation(self) -> bool:
        """Clean pictures alone."""
        return self.dataroot_lq is None

    def paths(self) -> dict[str, list[Path]]:
        """The roots and the list of names; none for the word ``bundled``."""
        given = {key: getattr(self, key) for key in ("dataroot_gt", "dataroot_lq", "meta_info")}
        return {
            key: [value] if isinstance(value, Path) else value
            for key, value in given.items()
            if isinstance(value, Path | list)
        }


class TrainImagesOptions(ImagesOptions, TrainSetOptions):
    """``datasets.train``: random crops of pictures."""

    name: str = "train"
    gt_size: int = Field(128, ge=1, description="side of the square gt crop; a multiple of scale")
    use_hflip: bool = Field(True, description="mirror left-right with probability 1/2")
    use_rot: bool = Field(True, description="mirror top-bottom and transpose, each with probability 1/2")
    small_pictures: Literal["pad", "error"] = Field(
        "pad", description="pictures smaller than gt_size: mirrored until they fit, or an error naming them"
    )

    def check_fit(self, scale: int, size_multiple: int) -> None:
        """``gt_size`` must be a multiple of the scale, and the lq crop of the windows."""
        if self.gt_size % scale:
            raise ValueError(f"datasets.train.gt_size {self.gt_size} is no multiple of scale {scale}")
        lq_size = self.gt_size // scale
        if lq_size % size_multiple:
            nearest = max(1, round(lq_size / size_multiple)) * size_multiple * scale
            raise ValueError(
                f"datasets.train.gt_size {self.gt_size} gives lq crops of {lq_size}, which windows of {size_multiple} "
                f"do not divide; the nearest gt_size is {nearest}"
            )

    @property
    def sample_size(self) -> str:
        """``crops of 128``."""
        return f"crops of {self.gt_size}"

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
    ) -> TrainingData:
        """Random crops of the pictures; see :class:`atelier.data.loader.TrainingData`."""
        from atelier.data.loader import TrainingData

        return TrainingData(
            self,
            scale=scale,
            degradation=degradation.build(scale),
            seed=seed,
            global_batch=global_batch,
            in_channels=in_channels,
            rank=rank,
            world=world,
            device=device,
            cache=cache,
            quiet=quiet,
        )


class ValSetOptions(DatasetOptions):
    """``datasets.val...``, whatever it holds."""

    name: str = "val"
    most: int | None = Field(None, ge=1, description="measure the first so many entries only; null: all")
    middle: int | None = Field(
        None,
        ge=16,
        description="measure the middle of pictures only, so many lq pixels a side; null: all of them",
    )


class ValImagesOptions(ImagesOptions, ValSetOptions):
    """``datasets.val``: whole pictures to measure on."""

    name: str = "val"
    grey_from: Literal["luma", "y"] = Field(
        "luma",
        description="how colour pictures become grey for a 1-channel network: luma (0 to 255) or y (BT.601 studio "
        "range, 16 to 235)",
    )
    degradation: Annotated[SerializeAsAny[DegradationOptions], Registered(DEGRADATIONS)] | None = Field(
        None, description="makes lq of this set's clean pictures; null: the run's degradation"
    )

    @model_validator(mode="after")
    def _one_lq(self) -> ValImagesOptions:
        if self.degradation is not None and self.dataroot_lq is not None:
            raise ValueError("degradation does nothing with dataroot_lq; remove the one or the other")
        if self.degradation is not None and self.degradation.run_on == "device":
            raise ValueError(
                "degradation.run_on: device is for training; a validation set's lq is always made by the processor, so "
                "that its figures do not depend on the device"
            )
        return self

    @property
    def default_pictures(self) -> tuple[str, ...]:
        """The bundled photographs meant when ``pictures`` is left out; none of them is a training default."""
        return VAL_DEFAULT

    @property
    def needs_degradation(self) -> bool:
        """Clean pictures alone, and no degradation of the set's own."""
        return self.dataroot_lq is None and self.degradation is None


DATASETS: Registry[TrainSetOptions] = Registry(
    "training data set",
    {
        "images": "atelier.data.options:TrainImagesOptions",
        "clips": "atelier.data.clip_options:TrainClipsOptions",
    },
)
VAL_DATASETS: Registry[ValSetOptions] = Registry(
    "validation data set",
    {
        "images": "atelier.data.options:ValImagesOptions",
        "clips": "atelier.data.clip_options:ValClipsOptions",
    },
)
