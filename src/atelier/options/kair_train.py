"""``train`` of a KAIR file: loss, optimiser, schedule, averages, regularisers, and how often things happen."""

from __future__ import annotations

from typing import Any

from atelier.options.kair_conversion import Conversion
from atelier.options.messages import show

_LOSSES: dict[str, dict[str, Any]] = {
    "l1": {"type": "L1Loss"},
    "l2": {"type": "MSELoss"},
    "l2sum": {"type": "MSELoss", "reduction": "sum"},
    "ssim": {"type": "SSIMLoss"},
    "charbonnier": {"type": "CharbonnierLoss"},
}
_EPS = 1e-9
_SCHEDULES = ("MultiStepLR", "CosineAnnealingWarmRestarts")


def convert_train(conversion: Conversion) -> None:
    """Fill ``train``, ``manual_seed``, ``path.load``, and the frequencies of ``val`` and ``logger``."""
    conversion.sections(("train",))
    conversion.idle[("train",)] = "the other train keys of this file leave it without use"
    if conversion.has("train", "manual_seed"):
        conversion.move(("train", "manual_seed"), "manual_seed")
    else:
        conversion.get("train", "manual_seed")
        conversion.put("manual_seed", 0)
        conversion.note(
            "manual_seed is left out: 0 is taken and saved (KAIR draws one and forgets it)", ("train",)
        )
    _convert_loss(conversion)
    _convert_optimizer(conversion)
    _convert_schedule(conversion)
    decay = conversion.get("train", "E_decay", default=0)
    conversion.put("train.ema_decay", decay, ("train", "E_decay"))
    if decay:
        conversion.put("val.measure", "both", ("train", "E_decay"))
    for theirs, ours in (
        ("G_regularizer_orthstep", "train.regularizer.orth_freq"),
        ("G_regularizer_clipstep", "train.regularizer.clip_freq"),
    ):
        if conversion.get("train", theirs):
            conversion.move(("train", theirs), ours)
    _convert_loading(conversion)
    for theirs, ours, fallback in (
        ("checkpoint_test", "val.val_freq", 5000),
        ("checkpoint_save", "logger.save_checkpoint_freq", 5000),
        ("checkpoint_print", "logger.print_freq", 200),
    ):
        conversion.put(ours, conversion.need("train", theirs, otherwise=fallback), ("train", theirs))


def _convert_loss(conversion: Conversion) -> None:
    kind = conversion.get("train", "G_lossfn_type")
    place = ("train", "G_lossfn_type")
    if not isinstance(kind, str) or kind not in _LOSSES:
        conversion.problem(f"given {show(kind)}, not supported; supported: {', '.join(_LOSSES)}", place)
        return
    conversion.put("train.pixel_opt", {}, place)
    for name, value in _LOSSES[kind].items():
        conversion.put(f"train.pixel_opt.{name}", value, place)
    if kind == "ssim":
        conversion.note(
            "1 - SSIM is minimised; KAIR minimises SSIM itself, which makes pictures worse", place
        )
    conversion.move(("train", "G_lossfn_weight"), "train.pixel_opt.loss_weight")
    eps = ("train", "G_charbonnier_eps")
    if kind == "charbonnier":
        conversion.put("train.pixel_opt.eps", conversion.need(*eps, otherwise=_EPS), eps)
    elif conversion.get(*eps) is not None:
        conversion.note(f"does nothing: G_lossfn_type is '{kind}'", eps)


def _convert_optimizer(conversion: Conversion) -> None:
    kind = conversion.need("train", "G_optimizer_type", otherwise="adam")
    if kind != "adam":
        conversion.problem(
            f"given {show(kind)}, KAIR knows only adam; for another one set train.optim_g.type in the converted file",
            ("train", "G_optimizer_type"),
        )
    conversion.put("train.optim_g.type", "Adam", ("train", "G_optimizer_type"))
    if not conversion.has("train", "G_optimizer_lr"):
        conversion.problem("G_optimizer_lr is missing: the learning rate", ("train",))
    conversion.move(("train", "G_optimizer_lr"), "train.optim_g.lr")
    conversion.move(("train", "G_optimizer_betas"), "train.optim_g.betas")
    conversion.move(("train", "G_optimizer_wd"), "train.optim_g.weight_decay")
    if conversion.get("train", "G_optimizer_clipgrad"):
        conversion.move(("train", "G_optimizer_clipgrad"), "train.grad_clip")
        conversion.note("clips the gradient's norm (KAIR crashes here)", ("train", "G_optimizer_clipgrad"))
    if conversion.get("train", "G_optimizer_reuse", default=False) is not True and conversion.has(
        "train", "G_optimizer_reuse"
    ):
        conversion.note(
            "a resumed run restores its optimiser all the same: without, it would not continue where it stopped",
            ("train", "G_optimizer_reuse"),
        )


def _convert_schedule(conversion: Conversion) -> None:
    place = ("train", "G_scheduler_type")
    kind = conversion.get(*place)
    if kind not in _SCHEDULES:
        conversion.problem(f"given {show(kind)}, not supported; supported: {', '.join(_SCHEDULES)}", place)
        return
    conversion.idle[("train",)] = f"G_scheduler_type '{kind}' does not read it"
    if kind == "MultiStepLR":
        conversion.put("train.scheduler.type", "MultiStepLR", place)
        steps = ("train", "G_scheduler_milestones")
        conversion.move(steps, "train.scheduler.milestones")
        gamma = conversion.need("train", "G_scheduler_gamma", otherwise=0.1)
        conversion.put("train.scheduler.gamma", gamma, ("train", "G_scheduler_gamma"))
        ends = conversion.get(*steps, default=[])
        last = max((step for step in _numbers(ends)), default=None)
    else:
        conversion.put("train.scheduler.type", "CosineAnnealingRestartLR", place)
        steps = ("train", "G_scheduler_periods")
        ends = conversion.get(*steps, default=[])
        ends = ends if isinstance(ends, list) else [ends]
        conversion.put("train.scheduler.periods", ends, steps)
        weights = conversion.get("train", "G_scheduler_restart_weights", default=[1] * len(ends))
        weights = weights if isinstance(weights, list) else [weights] * len(ends)
        conversion.put("train.scheduler.restart_weights", weights, ("train", "G_scheduler_restart_weights"))
        conversion.move(("train", "G_scheduler_eta_min"), "train.scheduler.eta_min")
        last = sum(_numbers(ends)) or None
    if conversion.has("train", "total_iter"):
        conversion.move(("train", "total_iter"), "train.total_iter")
    elif last is None:
        conversion.problem("no number of steps: name milestones or periods, or give total_iter", ("train",))
    else:
        conversion.put("train.total_iter", last, steps)
        conversion.note(
            f"the run ends after the last of them, step {last} (KAIR never ends); total_iter sets another end",
            steps,
        )


def _numbers(values: Any) -> list[int]:
    """The whole numbers among ``values``, also those written as 1e4 or 2.5e5."""
    listed = values if isinstance(values, list) else []
    whole = (each for each in listed if isinstance(each, int | float) and not isinstance(each, bool))
    return [int(each) for each in whole if float(each).is_integer()]


def _convert_loading(conversion: Conversion) -> None:
    """``G_param_strict`` and ``E_param_strict``: KAIR looks for the second under ``path`` and never finds it."""
    modes: dict[str, str] = {}
    for net in ("G", "E"):
        place = ("train", f"{net}_param_strict")
        value = conversion.get(*place, default=True)
        if not isinstance(value, bool):
            conversion.problem(f"given {show(value)}, allowed: true or false", place)
        modes[net] = "strict" if value else "flexible"
    if modes["G"] != "strict":
        conversion.put("path.load", modes["G"], ("train", "G_param_strict"))
        conversion.note(
            "what fits is loaded by name, the rest is named (KAIR copies by position); path.load: inherit carries "
            "what was learned into a network of another size",
            ("train", "G_param_strict"),
        )
    if modes["E"] == "flexible" and modes["G"] == "strict":
        conversion.put("path.load_ema", modes["E"], ("train", "E_param_strict"))
    elif modes["E"] != modes["G"]:
        conversion.note(
            "does nothing: where the network is loaded flexibly its average cannot be strict; it follows path.load",
            ("train", "E_param_strict"),
        )
