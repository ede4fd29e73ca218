"""The typed schema of a run: every section of an option file, its defaults and the checks across sections.

Names follow the field (BasicSR, neosr, traiNNer-redux). Component options come from the rooms that own them;
nothing here imports torch, so a mistake is found before anything heavy is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from atelier.archs.initialise_options import WeightInitOptions
from atelier.archs.registry import DISCRIMINATORS, NETWORKS, DiscriminatorOptions, NetworkOptions
from atelier.compress.options import InheritOptions
from atelier.data.options import (
    DATASETS,
    VAL_DATASETS,
    CacheOptions,
    TrainImagesOptions,
    TrainSetOptions,
    ValImagesOptions,
    ValSetOptions,
)
from atelier.degrade.base import DEGRADATIONS, DegradationOptions
from atelier.errors import UserError, did_you_mean
from atelier.losses.base import GAN_LOSSES, LOSSES, AdversarialLossOptions, LossOptions
from atelier.metrics.options import METRICS, MetricOptions
from atelier.objectives.base import DEFAULT_OBJECTIVE, OBJECTIVES, ObjectiveOptions
from atelier.options.base import Options, Registered
from atelier.train.health import HealthOptions
from atelier.train.optimizers import OPTIMIZERS, OptimizerOptions
from atelier.train.regularizer_options import RegularizerOptions
from atelier.train.schedules import SCHEDULERS, SchedulerOptions

Network = Annotated[SerializeAsAny[NetworkOptions], Registered(NETWORKS)]
Discriminator = Annotated[SerializeAsAny[DiscriminatorOptions], Registered(DISCRIMINATORS)]
Loss = Annotated[SerializeAsAny[LossOptions], Registered(LOSSES)]
GanLoss = Annotated[SerializeAsAny[AdversarialLossOptions], Registered(GAN_LOSSES, default="GANLoss")]
Metric = Annotated[SerializeAsAny[MetricOptions], Registered(METRICS)]
Optimizer = Annotated[SerializeAsAny[OptimizerOptions], Registered(OPTIMIZERS, default="Adam")]
Scheduler = Annotated[SerializeAsAny[SchedulerOptions], Registered(SCHEDULERS, default="constant")]
Objective = Annotated[SerializeAsAny[ObjectiveOptions], Registered(OBJECTIVES, default=DEFAULT_OBJECTIVE)]
Degradation = Annotated[SerializeAsAny[DegradationOptions], Registered(DEGRADATIONS)]
TrainSet = Annotated[SerializeAsAny[TrainSetOptions], Registered(DATASETS, default="images")]
ValSet = Annotated[SerializeAsAny[ValSetOptions], Registered(VAL_DATASETS, default="images")]
LoadMode = Literal["strict", "flexible", "inherit"]


class PathOptions(Options):
    """Where weights come from and where the run is written."""

    pretrain_network_g: Path | None = Field(None, description="weights to start from")
    pretrain_network_ema: Path | None = Field(
        None,
        description="the averaged weights to start from, where they are a file of their own (KAIR's N_E.pth)",
    )
    param_key_g: str | None = Field(
        None, description="which entry of the weight file; null: params_ema, then params"
    )
    load: LoadMode = Field(
        "strict",
        description="strict: every tensor must fit; flexible: what fits is loaded, the rest starts at random; "
        "inherit: what was learned is carried into the network of another size",
    )
    load_ema: LoadMode | None = Field(None, description="the same for the averaged weights; null: as load")
    min_loaded: float = Field(
        0.01, ge=0, le=1, description="flexible and inherit: refuse below this share of the weights"
    )
    inherit: InheritOptions = InheritOptions()
    pretrain_network_d: Path | None = Field(
        None, description="weights the discriminator starts from; null: at random"
    )
    param_key_d: str | None = Field(None, description="which entry of that file; null: params")
    load_d: Literal["strict", "flexible"] = Field(
        "strict", description="the same as load, for the discriminator"
    )
    resume: Literal["auto", "never"] | None = Field(
        None,
        description="auto: continue from the newest checkpoint of this name, if there is one; never: start afresh; "
        "null: start afresh unless --auto_resume is given",
    )
    ignore_resume_network: bool = Field(False, description="true is resume: never (KAIR's forks)")
    resume_state: Path | None = Field(
        None,
        description="a checkpoint to continue from: training_states/N.state, or KAIR's models/N_G.pth; with "
        "--auto_resume a run that has checkpoints of its own goes on from them",
    )
    resume_iteration: Literal["keep", "reset"] | None = Field(
        None,
        description="the step a continued run goes on from: the checkpoint's, or 0; null: keep, but reset where the "
        "architecture changed",
    )
    layout: Literal["atelier", "kair"] = Field(
        "atelier", description="kair: checkpoints are also written as N_G.pth, N_E.pth and N_optimizerG.pth"
    )
    experiments_root: Path = Field(Path("experiments"), description="folder that holds one folder per run")

    @field_validator(
        "pretrain_network_g", "pretrain_network_ema", "pretrain_network_d", "resume_state", "experiments_root"
    )
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        return value.expanduser() if value is not None else None

    @model_validator(mode="after")
    def _one_way_to_start(self) -> PathOptions:
        if self.pretrain_network_ema is not None and self.pretrain_network_g is None:
            raise ValueError("pretrain_network_ema needs pretrain_network_g, the trained weights beside it")
        if self.ignore_resume_network and self.resume == "auto":
            raise ValueError(
                "ignore_resume_network: true contradicts resume: auto; remove the one or the other"
            )
        if self.load_ema == "strict" and self.load != "strict":
            raise ValueError(
                f"load_ema: strict cannot be where load is {self.load}: both networks have the same shape; leave "
                "load_ema out"
            )
        if self.never_resumes and self.resume_state is not None:
            raise ValueError(
                "resume_state does nothing where nothing is resumed; remove it, or resume: never"
            )
        return self

    @property
    def never_resumes(self) -> bool:
        """The run starts afresh whatever its folder holds."""
        return self.ignore_resume_network or self.resume == "never"


class TrainOptions(Options):
    """How the network is trained."""

    total_iter: int = Field(500_000, ge=1, description="optimiser steps of the whole run")
    accumulate: int = Field(1, ge=1, description="micro-batches per optimiser step (gradient accumulation)")
    optim_g: Optimizer = Field(default_factory=lambda: OPTIMIZERS.options_class("Adam")(type="Adam"))
    optim_d: Optimizer | None = Field(None, description="the discriminator's optimiser; null: as optim_g")
    scheduler: Scheduler = Field(
        default_factory=lambda: SCHEDULERS.options_class("constant")(type="constant")
    )
    warmup_iter: int = Field(-1, ge=-1, description="linear warm-up over this many steps; -1: off")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="decay of the averaged weights; 0: no average")
    grad_clip: float | None = Field(None, gt=0, description="largest global gradient norm; null: no clipping")
    weight_init: WeightInitOptions | None = Field(
        None, description="fresh weights by another rule than the network's own; null: the network's own"
    )
    regularizer: RegularizerOptions | None = Field(
        None, description="KAIR's corrections of the weights after some steps; null: none"
    )
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    compile: bool = Field(False, description="torch.compile of the network's repeated blocks")
    deterministic: bool = Field(False, description="bit-identical resume on a GPU too, at some cost in speed")
    losses: list[Loss] = Field(default_factory=list, description="all loss terms; default: one L1Loss")
    pixel_opt: Loss | None = Field(None, description="BasicSR's name for one pixel loss")
    perceptual_opt: Loss | None = Field(None, description="BasicSR's name for the perceptual loss")
    gan_opt: GanLoss | None = Field(None, description="the loss on a discriminator's logits (objective gan)")
    ldl_opt: Loss | None = Field(
        None,
        description="a loss where the output has more artefacts than the averaged network's (LDL; objective gan)",
    )

    @property
    def all_losses(self) -> list[LossOptions]:
        """Every loss of pictures in order: ``pixel_opt``, ``perceptual_opt``, then ``losses``.

        L1 when none is given and there is no ``gan_opt`` either.
        """
        named = [loss for loss in (self.pixel_opt, self.perceptual_opt) if loss is not None]
        given = [*named, *self.losses]
        return given if given or self.gan_opt is not None else [LOSSES.options_class("L1Loss")(type="L1Loss")]

    def optimizer_of(self, role: str) -> OptimizerOptions:
        """The optimiser of a network: ``optim_d`` for the discriminator where it is given, else ``optim_g``."""
        return self.optim_d if role == "d" and self.optim_d is not None else self.optim_g


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
    measure: Literal["average", "both"] = Field(
        "average",
        description="both: the trained weights are measured beside their average (KAIR measures them alone)",
    )
    padding: Literal["network", "official"] = Field(
        "network",
        description="official: pictures are mirrored to a whole further window, as SwinIR's test script does; it "
        "changes the right and bottom borders",
    )

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
    log_format: Literal["basicsr", "kair"] = Field(
        "basicsr", description="whose lines train.log is written in"
    )
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
    def validation(self) -> dict[str, ValSetOptions]:
        """All validation sets by their key, ``val`` first."""
        first = {"val": self.val} if self.val is not None else {}
        return first | dict(self.__pydantic_extra__ or {})

    @property
    def images(self) -> TrainImagesOptions:
        """``train`` of a run on pictures; :class:`UserError` where this run trains on something else."""
        if not isinstance(self.train, TrainImagesOptions):
            raise UserError(f"this needs pictures to train on, but datasets.train.type is {self.train.type}")
        return self.train

    @property
    def validation_images(self) -> dict[str, ValImagesOptions]:
        """The validation sets of a run on pictures; :class:`UserError` where one holds something else."""
        found = {}
        for key, each in self.validation.items():
            if not isinstance(each, ValImagesOptions):
                raise UserError(f"this needs pictures to measure on, but datasets.{key}.type is {each.type}")
            found[key] = each
        return found


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
    network_d: Discriminator | None = Field(
        None, description="the discriminator; only where the objective has one"
    )
    path: PathOptions = PathOptions()
    train: TrainOptions = Field(default_factory=TrainOptions)
    val: ValOptions = Field(default_factory=ValOptions)
    logger: LoggerOptions = Field(default_factory=LoggerOptions)
    dist_params: DistOptions = DistOptions()
    cache: CacheOptions = Field(default_factory=CacheOptions)
    health: HealthOptions = Field(default_factory=HealthOptions)
    checkpoint_format: Literal["pth", "safetensors"] = "pth"

    SECTIONS: ClassVar[dict[str, tuple[str, str]]] = {
        "distill": ("objective", "DistillOptions"),
        "loss": ("objective.loss", "ColourLossOptions"),
    }
    """Sections of a file that stand for a field: name -> (the field's place, its options class)."""

    # What a converter of another program's file has to say about it; shown with the warnings.
    _notes: list[str] = PrivateAttr(default_factory=list)
    # Stands for what :meth:`warnings` would find, where a run is cut short on purpose.
    _warnings: list[str] | None = PrivateAttr(None)

    @model_validator(mode="before")
    @classmethod
    def _distill_section(cls, data: Any) -> Any:
        """``distill:`` at the top, where files have it, is what ``objective: {type: distill, ...}`` says."""
        if not isinstance(data, dict) or "distill" not in data:
            return data
        rest = {key: value for key, value in data.items() if key != "distill"}
        section, objective = data["distill"], data.get("objective", "distill")
        if section is None:
            return rest
        kind = objective.get("type") if isinstance(objective, dict) else objective
        if kind != "distill":
            raise ValueError(f"distill is read by objective distill alone; the objective here is {kind}")
        if not isinstance(section, dict):
            raise ValueError(f"distill expects keys such as recipe and teacher, given {section!r}")
        own = objective if isinstance(objective, dict) else {}
        return {**rest, "objective": {"type": "distill", **own, **section}}

    @model_validator(mode="before")
    @classmethod
    def _loss_section(cls, data: Any) -> Any:
        """``loss:`` at the top is what ``objective: {type: colorize, loss: ...}`` says."""
        if not isinstance(data, dict) or "loss" not in data:
            return data
        rest = {key: value for key, value in data.items() if key != "loss"}
        section, objective = data["loss"], data.get("objective", "colorize")
        if section is None:
            return rest
        kind = objective.get("type") if isinstance(objective, dict) else objective
        if kind != "colorize":
            raise ValueError(
                f"loss is read by objective colorize alone; the objective here is {kind}, whose losses are train.losses"
            )
        own = objective if isinstance(objective, dict) else {}
        if own.get("loss") is not None:
            raise ValueError("loss and objective.loss say the same thing; keep one of the two")
        return {**rest, "objective": {"type": "colorize", **own, "loss": section}}

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
        self._material()
        train = self.datasets.train
        train.check_fit(self.scale, network.size_multiple)
        if train.batch_size_per_gpu % self.train.accumulate:
            raise ValueError(
                f"datasets.train.batch_size_per_gpu {train.batch_size_per_gpu} cannot be split into "
                f"train.accumulate {self.train.accumulate} equal micro-batches"
            )
        if self.train.optim_g.type == "AdamWScheduleFree" and self.train.ema_decay > 0:
            raise ValueError(
                "train.optim_g.type AdamWScheduleFree averages the weights itself; set train.ema_decay: 0"
            )
        if self.path.pretrain_network_g is not None and self.objective.begins_as is not None:
            raise ValueError(
                f"{self.objective.begins_as} and path.pretrain_network_g both say what network_g begins as; set "
                f"{self.objective.begins_as}: none, or leave path.pretrain_network_g out"
            )
        if self.degradation is not None and not self._uses_degradation():
            raise ValueError(
                "degradation does nothing: every data set has its own dataroot_lq or degradation; remove the one or "
                "the other"
            )
        if self.scale == 1 and self.degradation is None and self._uses_degradation():
            raise ValueError(
                "scale 1 with clean pictures needs a degradation (for example degradation: {type: gaussian_noise, "
                "sigma: 25}), or dataroot_lq for pairs"
            )
        return self

    def _material(self) -> None:
        """Network, objective and data sets are all for pictures, or all for clips."""
        self.objective.check_network(self.network_g)
        clips = self.network_g.works_on == "clips"
        sets: dict[str, Any] = {"train": self.datasets.train, **self.datasets.validation}
        for key, each in sets.items():
            if isinstance(each, TrainImagesOptions | ValImagesOptions) == clips:
                wanted = "clips" if clips else "images"
                raise ValueError(
                    f"objective {self.objective.type} needs datasets.{key}.type: {wanted}, given {each.type}"
                )
        losses = {"losses": self.train.losses, "pixel_opt": self.train.pixel_opt}
        idle = [
            key for key, value in (losses | {"perceptual_opt": self.train.perceptual_opt}).items() if value
        ]
        if clips and idle:
            raise ValueError(
                f"train.{idle[0]} does nothing with objective {self.objective.type}; its terms stand under loss, for "
                "example loss: {l1: 1.0}"
            )

    @model_validator(mode="after")
    def _discriminator(self) -> RunOptions:
        """The parts of adversarial training come together or not at all, and fit the crops."""
        kind, network = self.objective.type, self.network_d
        has_discriminator = "d" in self.objective.needed_roles
        given = {
            "network_d": network,
            "train.gan_opt": self.train.gan_opt,
            "train.ldl_opt": self.train.ldl_opt,
            "train.optim_d": self.train.optim_d,
            "path.pretrain_network_d": self.path.pretrain_network_d,
            "path.param_key_d": self.path.param_key_d,
        }
        if not has_discriminator:
            idle = [key for key, value in given.items() if value is not None]
            if idle:
                how = "set loss.gan" if kind == "colorize" else "say objective: {type: gan}"
                raise ValueError(
                    f"{', '.join(idle)}: objective {kind} has no discriminator; {how} or leave that out"
                )
            return self
        if network is None:
            raise ValueError(
                f"objective {kind} trains a discriminator: give network_d, for example "
                f"network_d: {{type: {'ColourDiscriminatorSN' if kind == 'colorize' else 'UNetDiscriminatorSN'}}}"
            )
        if self.train.gan_opt is None and kind == "gan":
            raise ValueError(
                "objective gan needs train.gan_opt, for example gan_opt: {type: GANLoss, loss_weight: 0.1}"
            )
        if self.train.ldl_opt is not None and not self.train.ema_decay:
            raise ValueError(
                "train.ldl_opt compares with the averaged network, but train.ema_decay is 0; set it, for example 0.999"
            )
        judged = self.objective.judged_channels(self.network_g)
        if network.in_channels != judged:
            raise ValueError(
                f"network_d judges pictures of {network.in_channels} channels, network_g gives {judged}; make them "
                "equal"
            )
        train = self.datasets.train
        if isinstance(train, TrainImagesOptions):
            key, side = "gt_size", train.gt_size
        else:
            key, side = "crop", min(getattr(train, "crop_size", (0,)))
        try:
            network.check_size(side)
        except ValueError as error:
            raise ValueError(f"datasets.train.{key} {error}") from None
        return self

    def _uses_degradation(self) -> bool:
        """Some set has clean pictures alone and no degradation of its own."""
        return any(
            each.needs_degradation for each in (self.datasets.train, *self.datasets.validation.values())
        )

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
        if self._warnings is not None:
            return self._warnings
        sets = (self.datasets.train, *self.datasets.validation.values())
        notes = [*self._notes, *self.network_g.notes(), *(note for each in sets for note in each.notes())]
        notes += self.train.scheduler.check(self.train.total_iter)
        decay, total = self.train.ema_decay, self.train.total_iter
        if decay and total * (1 - decay) < 0.5:
            span = round(1 / (1 - decay))
            notes.append(
                f"train.ema_decay {decay:g} averages over about {span:,} steps, the run has {total:,}: its "
                "averaged weights, which are validated and saved as the best, will lag behind the network; "
                f"train.ema_decay={1 - 10 / max(total, 20):.3g} suits this length"
            )
        if not self.datasets.validation:
            notes.append("no datasets.val: nothing will be measured and no best checkpoint is kept")
        elif self.val.val_freq > self.train.total_iter:
            notes.append(f"val.val_freq {self.val.val_freq} is above total_iter: only the end is validated")
        init_iters = getattr(self.objective, "net_d_init_iters", 0)
        if init_iters >= self.train.total_iter:
            notes.append(
                f"objective.net_d_init_iters {init_iters} is the whole run: the generator never learns"
            )
        if self.train.accumulate > 1 and any(
            getattr(loss, "reduction", "mean") == "sum" for loss in self.train.all_losses
        ):
            notes.append(
                "a loss with reduction: sum is averaged over micro-batches (and ranks), so its gradient is that of "
                "the sum divided by train.accumulate"
            )
        if getattr(self.degradation, "noise_seed", None) is not None:
            notes.append(
                "degradation.noise_seed gives every training sample the same field of noise; it belongs into "
                "datasets.val.degradation"
            )
        own = (getattr(data, "degradation", None) for data in self.datasets.validation.values())
        for each in (self.degradation, *own):
            notes += each.notes() if each is not None else []
        if self.train.warmup_iter > self.train.total_iter:
            notes.append("train.warmup_iter is above total_iter: the full learning rate is never reached")
        return notes


#: Models whose fields hold registry components, bottom-up: rebuild them after a plug-in registered new types.
MODELS_WITH_COMPONENTS: tuple[type[BaseModel], ...] = (
    ValImagesOptions,
    TrainOptions,
    ValOptions,
    DatasetsOptions,
    RunOptions,
)
