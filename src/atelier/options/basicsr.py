"""BasicSR's and Real-ESRGAN's YAML files become ours: every key is mapped, named with a reason, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atelier.options.basicsr_conversion import Conversion
from atelier.options.basicsr_datasets import convert_datasets
from atelier.options.basicsr_train import convert_train
from atelier.options.foreign import ForeignTree
from atelier.options.messages import show
from atelier.options.source import OptionFile


@dataclass(frozen=True)
class _Model:
    """What a ``model_type`` trains: with a discriminator, on pictures that it degrades itself, relativistic."""

    gan: bool = False
    degrades: bool = False
    relativistic: bool = False


_MODELS = {
    "SRModel": _Model(),
    "SwinIRModel": _Model(),
    "SRGANModel": _Model(gan=True),
    "ESRGANModel": _Model(gan=True, relativistic=True),
    "RealESRNetModel": _Model(degrades=True),
    "RealESRGANModel": _Model(gan=True, degrades=True),
}
_REFUSED = {
    **dict.fromkeys(
        ("EDVRModel", "VideoBaseModel", "VideoGANModel", "VideoRecurrentModel", "VideoRecurrentGANModel"),
        "video",
    ),
    **dict.fromkeys(("StyleGAN2Model", "HiFaceGANModel", "GFPGANModel"), "faces"),
}
#: BasicSR's default of the scale key, which ours would take from the run's scale.
_NETWORK_SCALES = {"RRDBNet": ("scale", 4), "SRVGGNetCompact": ("upscale", 4)}


def is_basicsr(tree: Mapping[str, Any]) -> bool:
    """Whether options are BasicSR's: a ``model_type`` at the top."""
    return "model_type" in tree


def convert(file: OptionFile, processes: int | None = None) -> tuple[ForeignTree, list[str]]:
    """Our options for a file of BasicSR's or Real-ESRGAN's, and what there is to know about them.

    Args:
        file: the file as read; a ``name`` of "" where the options came from Python.
        processes: unused: BasicSR states the batch of each process, as ours do.

    Returns:
        The converted options, unchecked, whose places name the file's lines and keys; and notes, one sentence each.

    Raises:
        UserError: with file and line for what is not supported, contradicts itself, or is no key of BasicSR's.
    """
    conversion = Conversion(file.name or None, file.data, file.lines)
    kind = conversion.get("model_type")
    if not isinstance(kind, str) or kind not in _MODELS:
        what = f" ({_REFUSED[kind]})" if isinstance(kind, str) and kind in _REFUSED else ""
        raise conversion.error(
            f"given {show(kind)}, not supported{what}; supported: {', '.join(_MODELS)}", ("model_type",)
        )
    model = _MODELS[kind]
    with conversion.problems_first():
        _convert_top(conversion)
        for section in (("path",), ("train",)):
            conversion.idle[section] = f"model_type {kind} does not read it"
        conversion.idle[()] = f"model_type {kind} does not read it"
        _convert_objective(conversion, model)
        _convert_networks(conversion, model)
        convert_datasets(conversion, degrades=model.degrades, kind=kind)
        _convert_path(conversion, model)
        convert_train(conversion, gan=model.gan, relativistic=model.relativistic)
        _convert_val(conversion)
        _convert_logger(conversion)
        conversion.finish()
    return conversion.tree, conversion.notes


def _convert_top(conversion: Conversion) -> None:
    for name in ("name", "scale", "num_gpu"):
        conversion.move((name,), name)
    if not conversion.has("manual_seed"):
        conversion.note("manual_seed is left out: 0, and saved (BasicSR draws one)", ())
    conversion.put("manual_seed", conversion.get("manual_seed", default=0), ("manual_seed",))
    gpus = conversion.get("num_gpu")
    if isinstance(gpus, int) and gpus > 1:
        conversion.note(
            f"one process a GPU: torchrun --nproc_per_node={gpus} -m atelier train -opt FILE --launcher pytorch",
            ("num_gpu",),
        )


def _convert_objective(conversion: Conversion, model: _Model) -> None:
    conversion.put("objective", {"type": "gan" if model.gan else "pixel"}, ("model_type",))
    if not (model.gan and model.degrades):
        return
    for name in ("l1_gt_usm", "percep_gt_usm", "gan_gt_usm"):
        conversion.put(f"objective.{name}", conversion.need(name, otherwise=True), (name,))


def _convert_networks(conversion: Conversion, model: _Model) -> None:
    network = conversion.component("network_g")
    if network is None:
        conversion.problem("network_g is missing", ())
    else:
        key, default = _NETWORK_SCALES.get(str(network.get("type")), ("", 0))
        if key and network.get(key) is None:
            network[key] = default
        conversion.put("network_g", network, ("network_g",))
    if not model.gan:
        return
    discriminator = conversion.component("network_d")
    if discriminator is None:
        conversion.problem("network_d is missing, which the discriminator of this model_type needs", ())
    else:
        conversion.put("network_d", discriminator, ("network_d",))


def _convert_path(conversion: Conversion, model: _Model) -> None:
    conversion.sections(("path",))
    conversion.put("path", {}, ("path",))
    conversion.move(("path", "experiments_root"), "path.experiments_root")
    conversion.move(("path", "resume_state"), "path.resume_state")
    if conversion.flag("auto_resume", default=False):
        conversion.put("path.resume", "auto", ("auto_resume",))
    ignored = conversion.get("path", "ignore_resume_networks", default=[])
    if ignored:
        conversion.problem(
            f"given {show(ignored)}, not supported: a resumed run continues all its networks; to begin with other "
            "weights start a new run with pretrain_network_g and pretrain_network_d",
            ("path", "ignore_resume_networks"),
        )
    given = conversion.get("path", "pretrain_network_g")
    key = conversion.get("path", "param_key_g", default="params")
    if given is not None:
        conversion.put("path.pretrain_network_g", given, ("path", "pretrain_network_g"))
        # Ours, left out, takes params_ema where the file has it, else params: what BasicSR does for params_ema.
        if key != "params_ema":
            conversion.put("path.param_key_g", key, ("path", "param_key_g"))
        if key == "params" and conversion.get("train", "ema_decay", default=0):
            # The average begins with the file's params_ema, whichever entry the network takes.
            conversion.put("path.pretrain_network_ema", given, ("path", "pretrain_network_g"))
    _convert_strictness(conversion, "strict_load_g", "path.load")
    if model.gan:
        conversion.move(("path", "pretrain_network_d"), "path.pretrain_network_d")
        conversion.move(("path", "param_key_d"), "path.param_key_d")
        _convert_strictness(conversion, "strict_load_d", "path.load_d")


def _convert_strictness(conversion: Conversion, theirs: str, ours: str) -> None:
    if not conversion.flag("path", theirs, default=True):
        conversion.put(ours, "flexible", ("path", theirs))


def _convert_val(conversion: Conversion) -> None:
    conversion.sections(("val",))
    for name in ("val_freq", "save_img"):
        conversion.move(("val", name), f"val.{name}")
    place = ("val", "metrics")
    metrics = conversion.component(*place)
    if metrics is None:
        if any(key.startswith("val") for key in conversion.tree.data["datasets"]):
            conversion.note("val.metrics is left out: PSNR and SSIM are measured", ())
        return
    for name, metric in metrics.items():
        if not isinstance(metric, dict):
            continue
        if metric.get("type") == "calculate_niqe":
            conversion.problem(
                "calculate_niqe is not supported: its model of natural pictures is not part of this program; remove "
                "this metric",
                (*place, name),
            )
        if metric.pop("input_order", "HWC") != "HWC":
            conversion.problem("input_order: pictures are HWC here; remove it", (*place, name))
    conversion.put("val.metrics", metrics, place)


def _convert_logger(conversion: Conversion) -> None:
    for section, names in (
        ("logger", ("print_freq", "save_checkpoint_freq", "use_tb_logger", "wandb")),
        ("dist_params", ("backend",)),
    ):
        conversion.sections((section,))
        for name in names:
            conversion.move((section, name), f"{section}.{name}")
