"""Options of the terms of distillation, each with its weight over time.

Weights are for pictures in [0, 1]. Weights published for 0–255 are divided by 255 for l1-like terms (and by 255² for
squares): affinity's 10 beside pixel 0.5 and response 0.5 in the FAKD code stands for about 0.08 here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema

from atelier.options.base import Options

Position = Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=r"^(100|\d{1,2})(\.\d+)?%$")]
"""An iteration, or percent of ``train.total_iter``: 4000 or ``20%``."""
Distance = Literal["l1", "l2", "charbonnier", "smooth_l1"]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class WeightOptions(Options):
    """How much a term counts, and when: w(i) = 0 for i < start, then a ramp, then held or falling until ``end``.

    Exactly one of ``value`` (a fixed factor), ``grad_ratio`` (the factor follows, so that the term's gradient on the
    student is this share of the pixel losses' gradient) and ``loss_share`` (the same with values of losses).
    """

    value: NotNegative | None = None
    grad_ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    loss_share: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    start: Position = Field(0, description="first iteration with the term; N, or percent of total_iter")
    ramp: Position = Field(0, description="iterations over which the weight rises from 0")
    end: Position = Field("100%", description="where a decay arrives at final")
    decay: Literal["none", "linear", "cosine"] = "none"
    final: NotNegative = Field(0.0, description="share of the weight that is left at end")
    every: Annotated[int, Field(ge=1)] = Field(
        100, description="iterations between two measurements of grad_ratio"
    )

    @model_validator(mode="after")
    def _one(self) -> WeightOptions:
        given = [key for key in ("value", "grad_ratio", "loss_share") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a weight needs exactly one of value, grad_ratio and loss_share, given: {', '.join(given) or 'none'}"
            )
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        whole = handler.resolve_ref_schema(handler(core))
        return cls.or_written_as(whole, {"type": "number", "minimum": 0})


class TermOptions(Options):
    """What every term has: its weight, as a number or in full."""

    weight: WeightOptions

    @field_validator("weight", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"value": value}
        if isinstance(value, dict) and not {"value", "grad_ratio", "loss_share"} & set(value):
            default = cls.model_fields["weight"].default
            if isinstance(default, WeightOptions):
                return {"value": default.value, **value}
        return value


def _weight(value: float) -> WeightOptions:
    return WeightOptions(value=value)


class ResponseOptions(TermOptions):
    """Student output against teacher output (Hinton et al. 2015 for pictures).

    ``mask``: ``better`` only where the teacher is nearer to the truth than the student; ``hard`` weighs by the
    student's own error. With l1 here and for the pixel loss at equal weights, nothing acts between teacher and truth.
    """

    weight: WeightOptions = _weight(1.0)
    loss: Distance = "l1"
    mask: Literal["none", "better", "hard"] = "none"


class ProjectorOptions(Options):
    """What brings the channels of one side to those of the other; it trains with the student."""

    side: Literal["student", "teacher"] = "student"
    type: Literal["none", "linear", "conv3", "mlp"] = "linear"
    bias: bool = True


class FeatureOptions(TermOptions):
    """Student features against teacher features, pair by pair (:mod:`atelier.objectives.distill.mapping`)."""

    weight: WeightOptions = _weight(0.06)
    loss: Literal["smooth_l1", "l1", "l2", "cosine"] = "smooth_l1"
    pairs: Literal["mean", "sum"] = "mean"
    projector: ProjectorOptions = ProjectorOptions()
    target_norm: Literal["none", "calibrated", "instance", "layernorm"] = "calibrated"

    @model_validator(mode="after")
    def _one_side(self) -> FeatureOptions:
        if self.projector.side == "teacher" and self.target_norm != "none":
            raise ValueError(
                f"target_norm {self.target_norm} normalises the teacher's features before a projector on that side "
                "could learn to shrink them: use target_norm none there, or projector.side student"
            )
        return self


class AffinityOptions(TermOptions):
    """Likeness of positions to each other, student's against teacher's (FAKD, He et al. 2020); no projector."""

    weight: WeightOptions = _weight(0.08)
    mode: Literal["window", "pooled", "full", "channel", "batch"] = "window"
    window: Annotated[int, Field(ge=2)] = 8
    pooled: Annotated[int, Field(ge=1)] = Field(
        4, description="how many times smaller the map of mode pooled is"
    )
    max_elements: Annotated[int, Field(ge=1)] = Field(
        64 * 2**20, description="numbers one affinity map of a batch may hold; more is refused beforehand"
    )


class AttentionOptions(TermOptions):
    """Where the energy of the features lies (Zagoruyko and Komodakis 2017)."""

    weight: WeightOptions = WeightOptions(grad_ratio=0.05)


class FrequencyOptions(TermOptions):
    """Spectra (fft) or one-level Haar bands of the student's output against the teacher's or the truth."""

    weight: WeightOptions = _weight(0.1)
    kind: Literal["fft", "haar"] = "fft"
    target: Literal["teacher", "gt"] = "teacher"
    highpass: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="fft: weight 1 - highpass at frequency 0, rising to 1 at the highest"
    )
    bands: tuple[NotNegative, NotNegative, NotNegative, NotNegative] = Field(
        (1.0, 1.0, 1.0, 1.0), description="haar: weights of LL, LH, HL and HH"
    )


class UpcycleOptions(TermOptions):
    """Tiles of the truth as new inputs that only the teacher can label (data upcycling, arXiv 2309.14162)."""

    weight: WeightOptions = _weight(0.2)
    loss: Distance = "l1"
    tiles: Annotated[int, Field(ge=1)] = Field(1, description="tiles of lq size out of each truth crop")
    p: Annotated[float, Field(ge=0, le=1)] = Field(
        0.3, description="chance of each of invert, horizontal and vertical flip, transpose"
    )
    zoom_out: bool = Field(False, description="also the reduced lq as an input, whose truth is lq")


class TermsOptions(Options):
    """The terms beside the run's pixel losses; one that is not named does not exist."""

    response: ResponseOptions | None = None
    feature: FeatureOptions | None = None
    affinity: AffinityOptions | None = None
    attention: AttentionOptions | None = None
    frequency: FrequencyOptions | None = None
    upcycle: UpcycleOptions | None = None

    @property
    def active(self) -> dict[str, TermOptions]:
        """The terms that are there, by name, in this order."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: term for name, term in found.items() if term is not None}
