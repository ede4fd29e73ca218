"""The typed schema of a run: every section of an option file, its defaults and the checks across sections.

Names follow the field (BasicSR, neosr, traiNNer-redux). Component options come from the rooms that own them;
nothing here imports torch, so a mistake is found before anything heavy is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, field_validator, model_validator

from atelier.archs.registry import NETWORKS, NetworkOptions
from atelier.data.options import DATASETS, VAL_DATASETS, CacheOptions, TrainImagesOptions, ValImagesOptions
from atelier.degrade.base import DEGRADATIONS, DegradationOptions
from atelier.errors import did_you_mean
from atelier.losses.base import LOSSES, LossOptions
from atelier.metrics.options import METRICS, MetricOptions
from atelier.objectives.base import DEFAULT_OBJECTIVE, OBJECTIVES, ObjectiveOptions
from atelier.options.base import Options, Registered
from atelier.train.health import HealthOptions
from atelier.train.optimizers import OPTIMIZERS, OptimizerOptions
from atelier.train.schedules import SCHEDULERS, SchedulerOptions

Network = Annotated[SerializeAsAny[NetworkOptions], Registered(NETWORKS)]
Loss = Annotated[SerializeAsAny[LossOptions], Registered(LOSSES)]
Metric = Annotated[SerializeAsAny[MetricOptions], Registered(METRICS)]
Optimizer = Annotated[SerializeAsAny[OptimizerOptions], Registered(OPTIMIZERS, default="Adam")]
Scheduler = Annotated[SerializeAsAny[SchedulerOptions], Registered(SCHEDULERS, default="constant")]
Objective = Annotated[SerializeAsAny[ObjectiveOptions], Registered(OBJECTIVES, default=DEFAULT_OBJECTIVE)]
Degradation = Annotated[SerializeAsAny[DegradationOptions], Registered(DEGRADATIONS)]
TrainSet = Annotated[SerializeAsAny[TrainImagesOptions], Registered(DATASETS, default="images")]
ValSet = Annotated[SerializeAsAny[ValImagesOptions], Registered(VAL_DATASETS, default="images")]


class PathOptions(Options):
    """Where weights come from and where the run is written."""

    pretrain_network_g: Path | None = Field(None, description="weights to start from")
    param_key_g: str | None = Field(
        None, description="which entry of the weight file; null: params_ema, then params"
    )
    resume_state: Path | None = Field(
        None, description="a training_states/N.state of this run to continue from"
    )
    experiments_root: Path = Field(Path("experiments"), description="folder that holds one folder per run")

    @field_validator("pretrain_network_g", "resume_state", "experiments_root")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        return value.expanduser() if value is not None else None


class TrainOptions(Options):
    """How the network is trained."""

    total_iter: int = Field(500_000, ge=1, description="optimiser steps of the whole run")
    accumulate: int = Field(1, ge=1, description="micro-batches per optimiser step (gradient accumulation)")
    optim_g: Optimizer = Field(default_factory=lambda: OPTIMIZERS.options_class("Adam")(type="Adam"))
    scheduler: Scheduler = Field(
        default_factory=lambda: SCHEDULERS.options_class("constant")(type="constant")
    )
    warmup_iter: int = Field(-1, ge=-1, description="linear warm-up over this many steps; -1: off")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="decay of the averaged weights; 0: no average")
    grad_clip: float | None = Field(None, gt=0, description="largest global gradient norm; null: no clipping")
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    compile: bool = Field(False, description="torch.compile of the network's repeated blocks")
    deterministic: bool = Field(False, description="bit-identical resume on a GPU too, at some cost in speed")
    losses: list[Loss] = Field(default_factory=list, description="all loss terms; default: one L1Loss")
    pixel_opt: Loss | None = Field(None, description="BasicSR's name for one pixel loss")
    perceptual_opt: Loss | None = Field(None, description="BasicSR's name for the perceptual loss")

    @property
    def all_losses(self) -> list[LossOptions]:
        """Every loss term in order: ``pixel_opt``, ``perceptual_opt``, then ``losses``; L1 when none is given."""
        named = [loss for loss in (self.pixel_opt, self.perceptual_opt) if loss is not None]
        return [*named, *self.losses] or [LOSSES.options_class("L1Loss")(type="L1Loss")]


class ValOptions(Options):
    """When and how the run is measured."""

    val_freq: int = Field(5000, ge=1, description="steps between validations")
    metrics: dict[str, Metric] = Field(
        default_factory=lambda: {
            name: METRICS.options_class(kind)(type=kind)
            for name, kind in (("psnr", "calculate_psnr"), ("ssim", "calculate_ssim"))
        },
        description="name -> metric; the first one decides which checkpoint is best",
    )
    save_img: bool = True
    max_images: int = Field(16, ge=0, description="pictures per set whose results are saved")
    tile: int | None = Field(None, ge=16, description="tile side in lq pixels; null: whole pictures")

    @field_validator("metrics")
    @classmethod
    def _some(cls, value: dict[str, MetricOptions]) -> dict[str, MetricOptions]:
        if not value:
            raise ValueError("name at least one metric, for example psnr: {type: calculate_psnr}")
        return value


class WandbOptions(Options):
    """Weights & Biases; needs the extra ``atelier[wandb]``."""

    project: str | None = None
    resume_id: str | None = None


class LoggerOptions(Options):
    """What is written while training."""

    print_freq: int = Field(100, ge=1, description="steps between log lines")
    save_checkpoint_freq: int = Field(5000, ge=1, description="steps between checkpoints")
    keep_last: int | None = Field(None, ge=1, description="checkpoints to keep besides the best; null: all")
    use_tb_logger: bool = True
    wandb: WandbOptions = WandbOptions()


class DistOptions(Options):
    """Several processes (``--launcher pytorch`` under torchrun)."""

    backend: Literal["nccl", "gloo", "auto"] = "auto"


class DatasetsOptions(Options):
    """``train`` and any number of ``val...`` sets."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, ValSet]

    train: TrainSet
    val: ValSet | None = None

    @model_validator(mode="before")
    @classmethod
    def _names(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields and not str(key).startswith("val_"):
                    known = did_you_mean(str(key), cls.model_fields)
                    raise ValueError(
                        f"unknown data set '{key}'{known}; allowed: train, val, val_1, val_NAME ..."
                    )
        return data

    @property
    def validation(self) -> dict[str, ValImagesOptions]:
        """All validation sets by their key, ``val`` first."""
        first = {"val": self.val} if self.val is not None else {}
        return first | dict(self.__pydantic_extra__ or {})


class RunOptions(Options):
    """One training run."""

    name: str = Field(min_length=1, pattern=r"^[^/\\\x00]+$", description="folder name under experiments/")
    scale: int = Field(1, ge=1, le=16, description="how many times larger gt is than lq")
    manual_seed: int = Field(0, ge=0, description="every random choice of the run follows from it")
    num_gpu: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto", description="auto: a GPU when there is one; 0: the CPU"
    )
    plugins: list[str] = Field(
        default_factory=list, description="modules to import that register own components"
    )
    objective: Objective = Field(default_factory=lambda: OBJECTIVES.options_class("pixel")(type="pixel"))
    degradation: Degradation | None = Field(None, description="how lq is made from clean gt; default bicubic")
    datasets: DatasetsOptions
    network_g: Network
    path: PathOptions = PathOptions()
    train: TrainOptions = Field(default_factory=TrainOptions)
    val: ValOptions = Field(default_factory=ValOptions)
    logger: LoggerOptions = Field(default_factory=LoggerOptions)
    dist_params: DistOptions = DistOptions()
    cache: CacheOptions = Field(default_factory=CacheOptions)
    health: HealthOptions = Field(default_factory=HealthOptions)
    checkpoint_format: Literal["pth", "safetensors"] = "pth"

    @model_validator(mode="before")
    @classmethod
    def _network_scale(cls, data: Any) -> Any:
        """Give the network the run's scale where its own key is left out."""
        if not isinstance(data, dict) or not isinstance(data.get("network_g"), dict | str):
            return data
        network = data["network_g"]
        network = {"type": network} if isinstance(network, str) else dict(network)
        kind = network.get("type")
        if isinstance(kind, str) and kind in NETWORKS:
            key = NETWORKS.options_class(kind).scale_key
            if key is not None and key not in network and "scale" in data:
                network[key] = data["scale"]
        return {**data, "network_g": network}

    @field_validator("name")
    @classmethod
    def _folder_name(cls, value: str) -> str:
        if value.strip() in {"", ".", ".."}:
            raise ValueError("a run's name must be usable as a folder name")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> RunOptions:
        network = self.network_g
        if network.scale != self.scale:
            key = type(network).scale_key or "scale"
            raise ValueError(
                f"network_g.{key} gives a x{network.scale} network, but scale is {self.scale}; make them equal"
            )
        train = self.datasets.train
        if train.gt_size % self.scale:
            raise ValueError(f"datasets.train.gt_size {train.gt_size} is no multiple of scale {self.scale}")
        if train.batch_size_per_gpu % self.train.accumulate:
            raise ValueError(
                f"datasets.train.batch_size_per_gpu {train.batch_size_per_gpu} cannot be split into "
                f"train.accumulate {self.train.accumulate} equal micro-batches"
            )
        if self.train.optim_g.type == "AdamWScheduleFree" and self.train.ema_decay > 0:
            raise ValueError(
                "train.optim_g.type AdamWScheduleFree averages the weights itself; set train.ema_decay: 0"
            )
        if self.degradation is not None and self._all_paired():
            raise ValueError(
                "degradation does nothing: every data set has its own dataroot_lq; remove the one or the other"
            )
        if self.scale == 1 and self.degradation is None and not self._all_paired():
            raise ValueError(
                "scale 1 with clean pictures needs a degradation (for example degradation: {type: gaussian_noise, "
                "sigma: 25}), or dataroot_lq for pairs"
            )
        return self

    def _all_paired(self) -> bool:
        sets = [self.datasets.train, *self.datasets.validation.values()]
        return all(dataset.dataroot_lq is not None for dataset in sets)

    @property
    def effective_degradation(self) -> DegradationOptions:
        """The degradation of clean pictures: the one given, else bicubic."""
        return self.degradation or DEGRADATIONS.options_class("bicubic")(type="bicubic")

    @property
    def run_dir(self) -> Path:
        """``experiments_root/name``."""
        return self.path.experiments_root / self.name

    def warnings(self) -> list[str]:
        """Things that are allowed but probably not meant, one sentence each."""
        notes = list(self.train.scheduler.check(self.train.total_iter))
        if not self.datasets.validation:
            notes.append("no datasets.val: nothing will be measured and no best checkpoint is kept")
        elif self.val.val_freq > self.train.total_iter:
            notes.append(f"val.val_freq {self.val.val_freq} is above total_iter: only the end is validated")
        if self.train.warmup_iter > self.train.total_iter:
            notes.append("train.warmup_iter is above total_iter: the full learning rate is never reached")
        return notes


#: Models whose fields hold registry components, bottom-up: rebuild them after a plug-in registered new types.
MODELS_WITH_COMPONENTS: tuple[type[BaseModel], ...] = (TrainOptions, ValOptions, DatasetsOptions, RunOptions)
