"""``atelier train --debug``: every part of a run once, in a few steps."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from atelier.data.options import TrainImagesOptions, TrainSetOptions
from atelier.errors import RunStopped
from atelier.options.schema import DatasetsOptions, RunOptions
from atelier.train.checkpoint import CheckpointStore
from atelier.train.distributed import Ranks, choose_device
from atelier.train.folder import RunFolder
from atelier.train.run import train
from atelier.train.tracking import check_trackers
from atelier.train.trainer import Trainer

#: Steps of a debug run: as many as BasicSR's debug interval.
STEPS = 8


#: On the CPU a debug run is to take a minute, not an hour: samples a step, and lq pixels a side.
CPU_BATCH, CPU_SIDE = 2, 64


def debug_options(options: RunOptions, *, on_cpu: bool = False) -> RunOptions:
    """The same run, eight steps long: prints each step, validates on two pictures at half way and at the end.

    Nothing is written outside ``experiments/debug_NAME``: pictures are read without the shard cache, and neither
    TensorBoard nor Weights & Biases hears of it. ``on_cpu`` also makes batch, crops and validation pictures small; on
    a GPU their full size is what is to be tried.
    """
    name = f"debug_{options.name}"
    short = options.model_copy(
        update={
            "name": name,
            "datasets": _datasets(options, on_cpu),
            "train": options.train.model_copy(update={"total_iter": STEPS}),
            "val": options.val.model_copy(update={"val_freq": STEPS // 2, "max_images": 2}),
            "logger": options.logger.model_copy(
                update={
                    "print_freq": 1,
                    "save_checkpoint_freq": STEPS // 2,
                    "use_tb_logger": False,
                    "wandb": options.logger.wandb.model_copy(update={"project": None}),
                }
            ),
            "path": options.path.model_copy(
                update={"resume_state": None, "resume": None, "resume_iteration": None}
            ),
            "cache": options.cache.model_copy(update={"enabled": False}),
        }
    )
    # Those of the real length: a milestone beyond eight steps is no mistake.
    short._warnings = options.warnings()
    return short


def _datasets(options: RunOptions, on_cpu: bool) -> DatasetsOptions:
    """Two pictures of each validation set; on the CPU small batches, crops and pictures as well."""
    side = {"middle": CPU_SIDE} if on_cpu else {}
    changes: dict[str, object] = {
        key: each.model_copy(update={"most": min(each.most or 2, 2), **side})
        for key, each in options.datasets.validation.items()
    }
    if on_cpu:
        batch = min(options.datasets.train.batch_size_per_gpu, CPU_BATCH * options.train.accumulate)
        changes["train"] = _small(options).model_copy(update={"batch_size_per_gpu": batch})
    return options.datasets.model_copy(update=changes)


def _small(options: RunOptions) -> TrainSetOptions:
    """The training set with crops that the CPU can do."""
    train, scale = options.datasets.train, options.scale
    if not isinstance(train, TrainImagesOptions):
        return train
    # Windows divide it, and the eighths that a U-Net halves its way down to; one such step where it is the larger.
    multiple = math.lcm(options.network_g.size_multiple, 8)
    lq_size = min(train.gt_size // scale, max(multiple, CPU_SIDE // multiple * multiple))
    judge = options.network_d
    try:
        if judge is not None:
            judge.check_size(lq_size * scale)
    except ValueError:  # it judges crops of one size, or none that small
        return train
    return train.model_copy(update={"gt_size": lq_size * scale})


def debug_run(options: RunOptions, *, launcher: str = "none") -> str:
    """Run it, then load the last checkpoint into fresh networks and compare every value.

    Returns:
        One sentence saying what was checked.

    Raises:
        UserError: whatever would also have stopped the real run.
    """
    check_trackers(options.logger)  # that it is there is looked at, though nothing is sent
    on_cpu = choose_device(options.num_gpu).type == "cpu"
    short = debug_options(options, on_cpu=on_cpu)
    folder = RunFolder(short.run_dir)
    before = set(folder.archived())
    result = train(short, launcher=launcher)
    if launcher == "none" and not _needed(short, folder.root):
        # The run has set an older debug run aside; unlike a real one it is of no use any more.
        for old in set(folder.archived()) - before:
            RunFolder(old).remove()
    if result.exit_code:
        return f"debug: stopped by a signal at step {result.iteration}"
    if result.report is None:
        return ""
    checked = check_resume(short, folder)
    data = short.datasets.train
    small = f" ({data.batch_size_per_gpu} {data.sample_size}: small, for the CPU)" if on_cpu else ""
    return (
        f"debug: {STEPS} steps{small}, validation, checkpoint and report work; {checked}. "
        f"Everything it wrote is in {folder.root}"
    )


def _needed(options: RunOptions, folder: Path) -> bool:
    """Whether the run began with a file of ``folder``."""
    path = options.path
    given = (path.pretrain_network_g, path.pretrain_network_ema, path.pretrain_network_d)
    return any(each is not None and each.resolve().is_relative_to(folder.resolve()) for each in given)


def check_resume(options: RunOptions, folder: RunFolder) -> str:
    """Load the newest checkpoint into a new trainer and save its state again: both must be equal.

    Raises:
        RunStopped: a value differs, or there is no checkpoint.
    """
    checkpoint = CheckpointStore(folder).newest()
    if checkpoint is None:
        raise RunStopped(f"debug: no complete checkpoint in {folder.states}")
    stored = checkpoint.load_state()
    data = stored.get("past", {}).get("data")
    trainer = Trainer(options, Ranks(0, 1, choose_device(options.num_gpu)), data=data)
    trainer.load(stored, checkpoint)
    again = trainer.state()
    different = [key for key, value in again.items() if not _equal(value, stored[key])]
    if different:
        raise RunStopped(f"debug: resuming does not restore {', '.join(different)}")
    return f"the checkpoint of step {checkpoint.iteration} resumes"


def _equal(left: object, right: object) -> bool:
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return bool(torch.equal(left.cpu(), right.cpu()))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(_equal(a, b) for a, b in zip(left, right, strict=True))
    return left == right
