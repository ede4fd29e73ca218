"""``objective: distill``: the run's losses plus terms that a teacher gives.

In files the section stands at the top, ``distill: {recipe: ..., teacher: [...]}``, beside ``objective: distill``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema

from atelier.errors import did_you_mean
from atelier.losses.base import AdversarialLossOptions, LossOptions
from atelier.objectives.base import (
    Heritage,
    Objective,
    ObjectiveOptions,
    ParameterGroup,
    Setting,
    built_losses,
)
from atelier.objectives.distill.recipes import DEFAULT_RECIPE, RECIPES, expand
from atelier.objectives.distill.term_options import TermsOptions
from atelier.options.base import Options

if TYPE_CHECKING:
    import torch
    from torch import nn

Names = Literal["auto"] | Annotated[list[str], Field(min_length=1)]
Pair = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]


class TeacherOptions(Options):
    """One teacher: a weight file of any network this toolkit or spandrel recognises."""

    weights: Path = Field(description="the teacher's weight file")
    param_key: str | None = Field(None, description="inner key of the file; null: params_ema, then params")
    precision: Literal["fp32", "bf16", "fp16", "auto"] = Field(
        "auto",
        description="auto: bf16 on a GPU where it stays within 55 dB of fp32 on the first batch, else fp32",
    )
    compile: Literal["auto"] | bool = Field("auto", description="auto: on a GPU")
    batch: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="samples the teacher sees at once; auto: all of them"
    )
    self_ensemble: Literal[1, 8] = Field(1, description="8: the mean over flips and turns (outputs only)")
    share: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        1.0, description="its part under combine: weighted"
    )
    source: Literal["online", "plan_cache"] = Field(
        "online",
        description="plan_cache: outputs are stored by (step, sample) and read by later runs of the seed",
    )
    quality_check: Literal["error", "warn", "off"] = Field(
        "error", description="what happens where the teacher is not better than bicubic and the student"
    )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        whole = handler.resolve_ref_schema(handler(core))
        return cls.or_written_as(whole, {"type": "string"})


class PlanCacheOptions(Options):
    """Where the answers of teachers with ``source: plan_cache`` are kept, and how."""

    dir: Path | None = Field(
        None, description="default: the folder teachers in the cache of decoded pictures"
    )
    max_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        50.0, description="disk space (10^9 bytes) that all caches in the folder may take together"
    )
    format: Literal["uint16", "fp16", "fp32"] = Field(
        "uint16", description="uint16: steps of 2.3e-5 over [-0.25, 1.25]; fp32: exact, twice the space"
    )
    verify: Annotated[int, Field(ge=0)] = Field(
        0, description="how many of the first answers that are read are computed again and compared"
    )

    @field_validator("dir")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        return None if value is None else Path(os.path.expandvars(value)).expanduser()


class TapsOptions(Options):
    """Where features are taken: ``auto`` (the network's stages), or module names, globs, ``block#2`` (second call)."""

    student: Names = "auto"
    teacher: Names = "auto"


class DistillOptions(ObjectiveOptions):
    """Terms from one or several teachers beside the run's losses; without a teacher: the run's losses alone."""

    type: Literal["distill"] = "distill"
    recipe: str | None = Field(None, description=f"one of {', '.join(RECIPES)}; what stands beside it wins")
    teacher: tuple[TeacherOptions, ...] = ()
    combine: Literal["mean", "weighted", "best_pixel", "separate"] = Field(
        "mean", description="several teachers: how their outputs become one target; taps are the first one's"
    )
    random_teacher: tuple[str, ...] = Field(
        (), description="terms, or start, whose teacher is an untrained twin: the control of a study"
    )
    start: Literal["none", "teacher"] = Field(
        "none",
        description="teacher: a new run's student begins as the first teacher made as small as it is (SRVGGNetCompact: "
        "solved on the run's first samples; SwinIR: by the rules of path.inherit)",
    )
    cache: PlanCacheOptions = PlanCacheOptions()
    taps: TapsOptions = TapsOptions()
    mapping: (
        Literal["proportional", "first_k", "last_aligned"] | Annotated[list[Pair], Field(min_length=1)]
    ) = "proportional"
    projector_lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        1.0, description="the projectors' learning rate, as a factor on the student's"
    )
    terms: TermsOptions = TermsOptions()
    gradients_every: Annotated[int, Field(ge=0)] = Field(
        1000,
        description="steps between two measurements of each term's share of the student's gradient (one more backward "
        "pass a term); the first is at step 1; 0: never",
    )
    allow_change: bool = Field(
        False, description="go on although the teacher, the terms or the mapping are others than before"
    )
    pretrain_projectors: Path | None = Field(
        None, description="start weights of the projectors (net_p_N.pth, or the original's N_P.pth)"
    )
    roles: ClassVar[tuple[str, ...]] = ("g",)
    looks_ahead: ClassVar[bool] = True

    @field_validator("teacher", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        if isinstance(value, str | Path):
            return [{"weights": value}]
        if isinstance(value, Mapping):
            return [value]
        if isinstance(value, Sequence):
            return [{"weights": each} if isinstance(each, str | Path) else each for each in value]
        return value

    @model_validator(mode="before")
    @classmethod
    def _recipe(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        recipe = data.get("recipe")
        if recipe is None:
            if not data.get("teacher") or data.get("terms") is not None:
                return data
            if data.get("start") == "none":
                raise ValueError(
                    f"with start: none the default recipe {DEFAULT_RECIPE} takes nothing from the teacher; name terms "
                    "or another recipe, for example recipe: feature@1"
                )
            recipe = DEFAULT_RECIPE
        if not isinstance(recipe, str) or recipe not in RECIPES:
            known = did_you_mean(str(recipe), RECIPES)
            raise ValueError(f"recipe '{recipe}' is not known{known}; known: {', '.join(RECIPES)}")
        return {**expand(recipe, data), "recipe": recipe}

    @model_validator(mode="after")
    def _consistent(self) -> DistillOptions:
        active = self.terms.active
        if active and not self.teacher:
            raise ValueError(
                f"the terms {', '.join(active)} need a teacher: give distill.teacher a weight file, or use recipe "
                "classic-none@1"
            )
        if self.start == "teacher" and not self.teacher:
            raise ValueError(
                "start: teacher needs a teacher: give distill.teacher a weight file, or use recipe classic-none@1"
            )
        known = [*active, "start"] if self.start == "teacher" else [*active]
        for name in self.random_teacher:
            if name not in known:
                here = ", ".join(known) or "none"
                hint = "; start: teacher would begin so" if name == "start" else did_you_mean(name, known)
                raise ValueError(f"random_teacher names '{name}'{hint}; terms here: {here}")
        if self.combine == "separate" and len(self.teacher) > 1 and self.terms.response is None:
            raise ValueError("combine separate gives each teacher a response term; terms.response is missing")
        return self

    @property
    def begins_as(self) -> str | None:
        """``distill.start`` where the student begins as its teacher made small."""
        return "distill.start" if self.start == "teacher" else None

    @property
    def random_terms(self) -> frozenset[str]:
        """The terms that learn from the untrained twin."""
        return frozenset(self.random_teacher) - {"start"}

    def heritage(self, setting: Setting) -> Heritage | None:
        """The first teacher, or its untrained twin where ``random_teacher`` names ``start``."""
        if self.start == "none":
            return None
        from atelier.objectives.distill.teacher import heritage_of

        return heritage_of(self.teacher[0], setting, random="start" in self.random_teacher)

    def trained(self, nets: Mapping[str, nn.Module], setting: Setting) -> dict[str, nn.Module]:
        """The student together with its projectors: one module, so that ranks share the gradients of both.

        Raises:
            UserError: a teacher that cannot be read or does not fit, a tap that does not exist.
        """
        if not self.terms.active:
            return dict(nets)
        from atelier.objectives.distill.assembling import assemble

        return {"g": assemble(self, nets["g"], setting)}

    def groups(self, role: str, net: nn.Module, lr: float) -> Sequence[ParameterGroup]:
        """The student, and its projectors where ``projector_lr`` gives them a rate of their own."""
        from atelier.objectives.distill.apprentice import Apprentice

        (together,) = super().groups(role, net, lr)
        projectors = net.projectors if isinstance(net, Apprentice) else None
        beside = list(projectors.parameters()) if projectors is not None else []
        if not beside or self.projector_lr == 1.0:
            return (together,)
        student = together.parameters[: -len(beside)]  # they come last in the apprentice
        return (ParameterGroup(role, student), ParameterGroup("projectors", beside, self.projector_lr))

    def build(
        self,
        *,
        nets: Mapping[str, nn.Module],
        losses: Sequence[LossOptions],
        device: torch.device,
        gan: AdversarialLossOptions | None = None,
    ) -> Objective:
        """Raises :class:`~atelier.errors.UserError` where there is no loss at all."""
        from atelier.objectives.distill.objective import DistillObjective

        return DistillObjective(self, nets["g"], built_losses(self.type, losses, device))
