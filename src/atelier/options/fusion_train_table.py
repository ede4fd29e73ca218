"""Every flag of the seed's training command for colour fusion: what it becomes here, or why it does nothing.

The seed is the public code base whose guide shows ``FusionSystem``, ``SimpleFusionNet`` and ``FusionLoss``. The table
in ``docs/colorize-training.md`` is made of this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from atelier.options.foreign_table import Key, KeyTable

#: What follows a flag: nothing (switch), one value, values divided by commas (list), or one or two numbers.
Kind = Literal["switch", "text", "list", "whole", "number", "wholes", "numbers"]


@dataclass(frozen=True)
class Flag(Key):
    """One flag; ``section`` is always empty."""

    kind: Kind = "text"


_IN_PACKAGE = "MemFlow and SwinTExCo are part of this package"
_AUGMENT = "datasets.train.reference.augment"
_PRESET = "overrides the preset"

FLAGS: tuple[Flag, ...] = (
    Flag(
        "",
        "--memflow_ckpt",
        "network_g.flow.weights",
        "left out: `flow: {type: dis}`, which needs no weights",
    ),
    Flag(
        "",
        "--swintexco_ckpt",
        "network_g.exemplar.checkpoint",
        "left out: the matching network learns from scratch",
    ),
    Flag("", "--memflow_path", "", _IN_PACKAGE),
    Flag("", "--swintexco_path", "", _IN_PACKAGE),
    Flag(
        "",
        "--dataset",
        "datasets.train.roots",
        "`A,B` is a list; `layout: csv`, or `folders` where the folders hold no table",
        kind="list",
    ),
    Flag("", "--imagenet", "datasets.train.reference_roots", "`A,B` is a list", kind="list"),
    Flag(
        "",
        "--batch_size",
        "datasets.train.batch_size_per_gpu",
        "times `--accumulation_steps`: here a batch is all that one step sees",
        kind="whole",
    ),
    Flag("", "--accumulation_steps", "train.accumulate", kind="whole"),
    Flag(
        "",
        "--epochs",
        "train.total_iter",
        "times ceil(clips / batch): the data set is counted; `train.total_iter=N` says it outright",
        kind="whole",
    ),
    Flag("", "--sequence_length", "datasets.train.clip_length", kind="whole"),
    Flag(
        "",
        "--target_size",
        "datasets.train.short_side",
        "and a square crop; two numbers are height and width, `crop`",
        kind="wholes",
    ),
    Flag(
        "", "--lr_swintexco", "objective.lr.swintexco", "left out: 1e-5, or 1e-4 from scratch", kind="number"
    ),
    Flag("", "--lr_fusion", "train.optim_g.lr", "left out: 1e-4", kind="number"),
    Flag("", "--max_grad_norm", "train.grad_clip", kind="number"),
    Flag(
        "",
        "--use_amp",
        "train.precision",
        "`bf16`, also where left out: the seed had it always on",
        kind="switch",
    ),
    Flag("", "--no_use_amp", "train.precision", "`fp32`; not a flag of the seed's", kind="switch"),
    Flag("", "--freeze_swintexco", "network_g.exemplar.freeze", kind="switch"),
    Flag(
        "",
        "--lambda_temporal",
        "loss.temporal.weight",
        "with `--use_adaptive_temporal`: `loss.adaptive.weight`",
        kind="number",
    ),
    Flag(
        "",
        "--lambda_smooth",
        "loss.adaptive.smooth",
        "share of the motion-compensated term; only with `--use_adaptive_temporal`",
        kind="number",
    ),
    Flag("", "--use_adaptive_temporal", "loss.adaptive", "in place of `loss.temporal`", kind="switch"),
    Flag("", "--contextual_chunk_size", "loss.contextual.chunk", "results do not depend on it", kind="whole"),
    Flag("", "--weight_gan", "loss.gan.weight", "0: no discriminator", kind="number"),
    Flag(
        "",
        "--epoch_train_discriminator",
        "loss.gan.start_iter",
        "epochs become steps, as for `--epochs`; only with `--weight_gan`",
        kind="whole",
    ),
    Flag("", "--lr_discriminator", "train.optim_d.lr", "only with `--weight_gan`", kind="number"),
    Flag("", "--augment_reference", _AUGMENT, "`moderate`; the flags below imply it", kind="switch"),
    Flag("", "--augmentation_preset", f"{_AUGMENT}.preset", "`none`, `minimal`, `moderate` or `strong`"),
    Flag("", "--hue_range", f"{_AUGMENT}.hue", f"± degrees; {_PRESET}", kind="numbers"),
    Flag("", "--saturation_range", f"{_AUGMENT}.saturation", f"two factors; {_PRESET}", kind="numbers"),
    Flag("", "--brightness_range", f"{_AUGMENT}.brightness", f"two factors; {_PRESET}", kind="numbers"),
    Flag("", "--rgb_flip_prob", f"{_AUGMENT}.permute", _PRESET, kind="number"),
    Flag("", "--horizontal_flip_prob", f"{_AUGMENT}.flip", _PRESET, kind="number"),
    Flag("", "--tps_prob", f"{_AUGMENT}.tps", _PRESET, kind="number"),
    Flag("", "--tps_strength", f"{_AUGMENT}.tps_strength", _PRESET, kind="number"),
    Flag("", "--real_reference_probability", "datasets.train.reference.external", kind="number"),
    Flag("", "--save_dir", "path.experiments_root", "the run is a folder in it"),
    Flag(
        "",
        "--save_freq",
        "logger.save_checkpoint_freq",
        "taken as epochs, which become steps",
        kind="whole",
    ),
    Flag("", "--resume", "path.resume_state", "`training_states/N.state`; a missing file is an error"),
    Flag("", "--device", "num_gpu", "`cpu` is 0; which GPU: `CUDA_VISIBLE_DEVICES`"),
)

TABLE = KeyTable("fusion-train", FLAGS)


def flag(name: str) -> Flag | None:
    """The entry of a flag; None where there is none of this name."""
    return next((each for each in FLAGS if each.name == name), None)
