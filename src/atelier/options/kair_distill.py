"""Distillation in a KAIR file, as the fork swinir-knowledge-distillation writes it."""

from __future__ import annotations

from atelier.errors import did_you_mean
from atelier.options.kair_conversion import Conversion
from atelier.options.messages import show

_TYPES = ("none", "response", "feature")
#: Our term -> (the fork's prefix, the losses that we have for it).
_TERMS = {
    "response": ("distill", ("l1", "l2", "charbonnier", "smooth_l1")),
    "feature": ("feature", ("l1", "l2", "smooth_l1", "cosine")),
}
_PATHS = ("pretrained_netTeacher", "pretrained_netP")
_KEYS = (
    "distillation_type",
    "distill_lossfn_type",
    "distill_lossfn_weight",
    "feature_lossfn_type",
    "feature_lossfn_weight",
    "start_feature_iter",
)
STUDENTS = {"swinir_student": "swinir", "swinir_student_v2": "swinir"}
"""The fork's names of networks -> KAIR's, which they are but for ``extra_residual``."""


def convert_distillation(conversion: Conversion) -> str:
    """Fill ``distill`` where the file is one of the fork's; our objective: ``distill`` or ``pixel``."""
    student = conversion.get("netG", "net_type") in tuple(STUDENTS)
    if not student and not any(conversion.has("train", key) for key in _KEYS):
        return "pixel"
    place = ("train", "distillation_type")
    kind = conversion.get(*place, default="none")
    if kind not in _TYPES:
        hint = did_you_mean(kind, _TYPES) if isinstance(kind, str) else ""
        conversion.problem(f"given {show(kind)}, allowed: {', '.join(_TYPES)}{hint}", place)
        kind = "none"
    conversion.put("distill.recipe", f"classic-{kind}@1", place)
    _convert_teacher(conversion, kind)
    for term, (prefix, losses) in _TERMS.items():
        _convert_term(conversion, term, prefix, losses, kind)
    return "distill"


def _convert_teacher(conversion: Conversion, kind: str) -> None:
    teacher, projectors = (("path", name) for name in _PATHS)
    if kind != "none":
        if conversion.has(*teacher):
            conversion.put("distill.teacher", [{"weights": conversion.get(*teacher)}], teacher)
        else:
            conversion.problem(
                f"pretrained_netTeacher is missing: distillation_type '{kind}' needs the teacher's weight file",
                ("path",),
            )
    if kind == "feature":
        conversion.move(projectors, "distill.pretrain_projectors")
    for place in (teacher, projectors):
        # Whatever is still unread is not wanted by this type.
        if conversion.has(*place) and (kind == "none" or (kind == "response" and place == projectors)):
            conversion.get(*place)
            conversion.note(f"does nothing: distillation_type is '{kind}'", place)


def _convert_term(conversion: Conversion, term: str, prefix: str, losses: tuple[str, ...], kind: str) -> None:
    names = [f"{prefix}_lossfn_type", f"{prefix}_lossfn_weight"]
    names += ["start_feature_iter"] if term == "feature" else []
    if kind != "feature" and kind != term:
        for name in names:
            if conversion.get("train", name) is not None:
                conversion.note(f"does nothing: distillation_type is '{kind}'", ("train", name))
        return
    at, ours = ("train", names[0]), f"distill.terms.{term}"
    loss = conversion.get(*at, default="l1")
    if loss not in losses:
        hint = did_you_mean(loss, losses) if isinstance(loss, str) else ""
        conversion.problem(f"given {show(loss)}, not supported; supported: {', '.join(losses)}{hint}", at)
        return
    conversion.put(f"{ours}.loss", loss, at)
    at = ("train", names[1])
    # Always written: 1.0 is the fork's default, the recipe has the weight of its later files.
    conversion.put(f"{ours}.weight.value", conversion.get(*at, default=1.0), at)
    if term == "feature" and (start := conversion.get("train", "start_feature_iter", default=0)):
        at = ("train", "start_feature_iter")
        conversion.put(f"{ours}.weight.start", start, at)
        conversion.note(
            "honoured here; the fork never reads it and has features from the first step on: "
            f"{ours}.weight.start=0 does the same",
            at,
        )
