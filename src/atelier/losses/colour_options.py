"""The terms of a colouring run's loss, their weights and settings; no torch at module level."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from atelier.losses.base import PositiveWeight, Weight
from atelier.options.base import Options


class Term(Options):
    """One term; where only its weight matters, a number stands for ``{weight: number}``."""

    weight: PositiveWeight

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        written = handler.resolve_ref_schema(handler(schema))
        return cls.or_written_as(written, {"type": "number", "exclusiveMinimum": 0})


class L1Term(Term):
    """Mean absolute difference of ab to the truth; ``charbonnier`` (epsilon 1e-3) rounds its corner."""

    weight: PositiveWeight = 1.0
    charbonnier: bool = False


class ExemplarTerm(Term):
    """The same for the exemplar's colours alone: it keeps the matcher learning."""

    weight: PositiveWeight = 0.5


class PerceptualTerm(Term):
    """MSE of features of the sRGB picture: VGG19's ``layer``, or the embed net's last stage."""

    weight: PositiveWeight = 0.05
    network: Literal["vgg19", "embed"] = "vgg19"
    layer: str = "relu3_3"
    vgg_weights: str | None = Field(None, description="torchvision's VGG19 file; null: the usual places")

    @model_validator(mode="after")
    def _known_layer(self) -> PerceptualTerm:
        from atelier.errors import did_you_mean
        from atelier.losses.perceptual import layer_names

        known = layer_names("vgg19")
        if self.network == "vgg19" and self.layer not in known:
            raise ValueError(f"layer: vgg19 has no layer '{self.layer}'{did_you_mean(self.layer, known)}")
        if self.network == "embed" and self.model_fields_set & {"layer", "vgg_weights"}:
            raise ValueError("layer and vgg_weights belong to network: vgg19; network: embed takes neither")
        return self


class ContextualTerm(Term):
    """Likeness of the first frame to the reference in the embed net's four stages, ``chunk`` positions at a time."""

    weight: PositiveWeight = 0.015
    chunk: int = Field(1024, ge=1)
    bandwidth: PositiveWeight = 0.1


class TemporalTerm(Term):
    """Change of colour along the motion; with ``detach_previous`` the gradient goes into the later frame alone."""

    weight: PositiveWeight = 0.2
    detach_previous: bool = False


class AdaptiveTerm(Term):
    """Distance to the carried colours where they are trusted, plus ``smooth`` times the temporal term."""

    weight: PositiveWeight = 0.5
    smooth: Weight = 0.3
    detach_previous: bool = False


class SmoothnessTerm(Term):
    """Colours follow the neighbours that truly look alike."""

    weight: PositiveWeight = 5.0


class AdversarialTerm(Term):
    """Relativistic average least squares; the generator's term joins after ``start_iter`` steps."""

    weight: PositiveWeight = 0.5
    start_iter: int = Field(0, ge=0)


def _spelt_out(value: Any) -> Any:
    """A bare number is the weight; 0 leaves the term out (the seed's flags switch terms off so)."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"weight": value} if value != 0 else None
    return value


_Short = BeforeValidator(_spelt_out)


class ColourLossOptions(Options):
    """Which terms a colouring run adds up. A term that is left out, ``null`` or 0 does not act.

    Weights of others for comparison: SwinTExCo used l1 2, perceptual 0.02, contextual 0.5, smoothness 5, gan 0.5.
    """

    l1: Annotated[L1Term | None, _Short] = None
    exemplar: Annotated[ExemplarTerm | None, _Short] = None
    perceptual: Annotated[PerceptualTerm | None, _Short] = None
    contextual: Annotated[ContextualTerm | None, _Short] = None
    temporal: Annotated[TemporalTerm | None, _Short] = None
    adaptive: Annotated[AdaptiveTerm | None, _Short] = None
    smoothness: Annotated[SmoothnessTerm | None, _Short] = None
    gan: Annotated[AdversarialTerm | None, _Short] = None

    @model_validator(mode="after")
    def _some_term(self) -> ColourLossOptions:
        if all(getattr(self, name) is None for name in type(self).model_fields if name != "gan"):
            names = ", ".join(name for name in type(self).model_fields if name != "gan")
            raise ValueError(f"no term acts: give at least one of {names} a weight")
        return self
