"""KAIR's JSON option files become ours: every key is mapped, named with the reason it does nothing, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atelier.options.foreign import ForeignTree
from atelier.options.kair_conversion import Conversion
from atelier.options.kair_datasets import convert_datasets
from atelier.options.kair_distill import convert_distillation
from atelier.options.kair_network import convert_network
from atelier.options.kair_train import convert_train
from atelier.options.messages import show
from atelier.options.source import OptionFile

_MARKS = ("task", "model", "gpu_ids", "n_channels", "netG", "dist")
_MODELS = {
    "plain2": "networks with two inputs",
    "plain4": "networks with four inputs",
    "gan": "adversarial training",
    "vrt": "video",
}


def is_kair(tree: Mapping[str, Any]) -> bool:
    """Whether options have the marks of a KAIR file (``netG``, ``task``, ``model``, ...) and none of ours."""
    if "network_g" in tree or "name" in tree:
        return False
    return "netG" in tree or sum(mark in tree for mark in _MARKS) >= 2


def convert(file: OptionFile, processes: int | None = None) -> tuple[ForeignTree, list[str]]:
    """Our options for a KAIR file, and what there is to know about them.

    Args:
        file: the file as read; a ``name`` of "" where the options came from Python.
        processes: how many the total batch is divided among; None: one for each of ``gpu_ids`` when ``dist`` is true,
            else one. The batch of all processes together is KAIR's either way.

    Returns:
        The converted options, unchecked, whose places name the KAIR file's lines and keys; and notes, one sentence
        each: keys that do nothing, values that KAIR takes otherwise, defaults filled in.

    Raises:
        UserError: with file and line for what is not supported, contradicts itself, or is a known key misspelt.
    """
    conversion = Conversion(file.name or None, file.data, file.lines)
    with conversion.problems_first():
        if conversion.get("model") != "plain":
            kind = conversion.get("model")
            what = f" ({_MODELS[kind]})" if isinstance(kind, str) and kind in _MODELS else ""
            raise conversion.error(
                f"given {show(kind)}, not supported yet{what}; supported: 'plain'", ("model",)
            )
        for section in ("path", "netG", "train"):
            conversion.sections((section,))
        processes = _convert_top(conversion, processes)
        convert_network(conversion)
        convert_datasets(conversion, processes)
        convert_train(conversion)
        _convert_measures(conversion)
        conversion.finish()
    return conversion.tree, conversion.notes


def _divides(conversion: Conversion, processes: int) -> bool:
    """Whether each of ``processes`` can have an equal share of the batch; a note where it cannot."""
    place = ("datasets", "train", "dataloader_batch_size")
    total = conversion.get(*place)
    if isinstance(total, int) and total % processes:
        conversion.note(
            f"a total of {total} cannot be divided among {processes} processes (KAIR would silently train on "
            f"{total // processes * processes}); the batch is left whole, for one process",
            place,
        )
        return False
    return True


def _convert_top(conversion: Conversion, processes: int | None) -> int:
    """Name, folders, devices; the number of processes."""
    if not conversion.has("task"):
        conversion.problem("task is missing: the name of the run", ())
    conversion.move(("task",), "name")
    objective = convert_distillation(conversion)
    conversion.put("objective", objective, ("model",))
    conversion.put("path", {}, ("path",))
    root = conversion.need("path", "root", otherwise="experiments")
    conversion.put("path.experiments_root", root, ("path", "root"))
    for theirs, ours in (
        ("pretrained_netG", "path.pretrain_network_g"),
        ("pretrained_netE", "path.pretrain_network_ema"),
    ):
        if conversion.has("path", theirs):
            conversion.note("KAIR ignores it; used here where nothing can be resumed", ("path", theirs))
        conversion.move(("path", theirs), ours)
    if conversion.has("path", "pretrained_optimizerG"):
        conversion.get("path", "pretrained_optimizerG")
        conversion.note(
            "does nothing, as in KAIR: path.resume_state=models/N_G.pth goes on from step N with its optimiser",
            ("path", "pretrained_optimizerG"),
        )
    afresh = conversion.get("path", "ignore_resume_network", default=False)
    if not isinstance(afresh, bool):
        conversion.problem(f"given {show(afresh)}, allowed: true or false", ("path", "ignore_resume_network"))
    conversion.put("path.resume", "never" if afresh else "auto", ("path", "ignore_resume_network"))
    gpus = conversion.get("gpu_ids")
    dist = conversion.get("dist", default=False)
    if not isinstance(dist, bool):
        conversion.problem(f"given {show(dist)}, allowed: true or false", ("dist",))
    if gpus is None:
        conversion.note("gpu_ids is left out: a GPU is used when there is one", ())
    elif not isinstance(gpus, list) or not all(isinstance(gpu, int) for gpu in gpus):
        conversion.problem(f"given {show(gpus)}, allowed: a list of whole numbers", ("gpu_ids",))
        gpus = None
    count = len(gpus or ())
    if processes is None:
        processes = count if dist is True and count and _divides(conversion, count) else 1
        conversion.put("num_gpu", processes if processes > 1 else "auto" if gpus != [] else 0, ("gpu_ids",))
    else:
        conversion.put("num_gpu", "auto" if gpus != [] else 0, ("gpu_ids",))
    if gpus:
        ids = ",".join(map(str, gpus))
        conversion.note(
            f"which GPUs are used is set outside: CUDA_VISIBLE_DEVICES={ids} atelier train ...", ("gpu_ids",)
        )
    if count > 1 or dist is True:
        conversion.note(
            f"one process a GPU: torchrun --nproc_per_node={max(1, count)} -m atelier train -opt FILE "
            "--launcher pytorch",
            ("dist",) if conversion.has("dist") else ("gpu_ids",),
        )
    return processes


def _convert_measures(conversion: Conversion) -> None:
    """KAIR cuts ``scale`` pixels off every side, one even for denoising; border 0 is reported beside it."""
    scale = conversion.get("scale", default=1)
    for name, border in (("psnr", scale), ("psnr_border0", 0)):
        conversion.put(f"val.metrics.{name}", {"type": "calculate_psnr", "crop_border": border})
    conversion.put("logger.log_format", "kair")
