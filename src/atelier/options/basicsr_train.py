"""``train`` of a BasicSR file: optimisers, schedule, losses and the discriminator's rhythm."""

from __future__ import annotations

from typing import Any

from atelier.options.basicsr_conversion import Conversion
from atelier.options.messages import show


def convert_train(conversion: Conversion, *, gan: bool, relativistic: bool) -> None:
    """Fill ``train`` and, with a discriminator (``gan``), the rest of ``objective``."""
    conversion.sections(("train",))
    conversion.put("train", {}, ("train",))
    for name in ("total_iter", "warmup_iter"):
        conversion.move(("train", name), f"train.{name}")
    if not conversion.has("train", "total_iter"):
        conversion.problem("total_iter is missing", ("train",))
    decay = conversion.get("train", "ema_decay", default=0)
    conversion.put("train.ema_decay", decay, ("train", "ema_decay"))
    _convert_optimizers(conversion, gan=gan)
    _convert_scheduler(conversion)
    terms = [
        _convert_loss(conversion, "pixel_opt", ("loss_weight",)),
        _convert_loss(conversion, "perceptual_opt", ("perceptual_weight", "style_weight")),
    ]
    if not gan and not any(terms):
        conversion.problem("no loss: give pixel_opt or perceptual_opt", ("train",))
    if gan:
        _convert_loss(conversion, "ldl_opt", ("loss_weight",))
        _convert_adversarial(conversion, relativistic=relativistic)


def _convert_optimizers(conversion: Conversion, *, gan: bool) -> None:
    for name in ("optim_g", "optim_d") if gan else ("optim_g",):
        place = ("train", name)
        optimizer = conversion.component(*place)
        if optimizer is None and name == "optim_d":
            conversion.note("optim_d is left out, which BasicSR cannot run with; as optim_g", ("train",))
        elif optimizer is None:
            conversion.problem("optim_g is missing", ("train",))
        else:
            if optimizer.get("lr") is None:
                conversion.problem("lr is missing: the learning rate", place)
            conversion.put(f"train.{name}", optimizer, place)


def _convert_scheduler(conversion: Conversion) -> None:
    place = ("train", "scheduler")
    scheduler = conversion.component(*place)
    if scheduler is None:
        conversion.note(
            "scheduler is left out, which BasicSR cannot run with; the rate is constant", ("train",)
        )
        return
    if scheduler.get("type") in ("MultiStepLR", "MultiStepRestartLR"):
        scheduler["type"] = "MultiStepLR"
        for name, usual in (("restarts", [0]), ("restart_weights", [1])):
            value = scheduler.pop(name, usual)
            if value != usual:
                conversion.problem(
                    f"given {show(value)}, not supported: this schedule restarts nowhere here; "
                    "CosineAnnealingRestartLR does",
                    (*place, name),
                )
    conversion.put("train.scheduler", scheduler, place)


def _convert_loss(conversion: Conversion, name: str, weights: tuple[str, ...]) -> bool:
    """Carry a loss over; whether it is one that acts. A weight of 0 stands for leaving it out."""
    place = ("train", name)
    loss = conversion.component(*place)
    if loss is None:
        return False
    if all(_is_zero(loss.get(weight, 1 if weight != "style_weight" else 0)) for weight in weights):
        conversion.note(f"left out: {' and '.join(weights)} {'are' if weights[1:] else 'is'} 0", place)
        return False
    conversion.put(f"train.{name}", loss, place)
    return True


def _is_zero(value: Any) -> bool:
    return not isinstance(value, bool) and value == 0


def _convert_adversarial(conversion: Conversion, *, relativistic: bool) -> None:
    place = ("train", "gan_opt")
    loss = conversion.component(*place)
    if loss is None:
        conversion.problem("gan_opt is missing, which the discriminator needs", ("train",))
    else:
        if relativistic:
            loss["relativistic"] = True
        conversion.put("train.gan_opt", loss, place)
    for name in ("net_d_iters", "net_d_init_iters", "r1_reg_weight", "net_d_reg_every"):
        conversion.move(("train", name), f"objective.{name}")
