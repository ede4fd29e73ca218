"""Named, versioned sets of distillation options. A published ``name@n`` never changes; a better one is ``name@n+1``.

Recipes leave ``train.pixel_opt`` alone. What stands in the file beside ``recipe`` wins, key by key; a term set to null
is taken out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CLASSIC_RESPONSE = {"response": {"loss": "l1", "mask": "none", "weight": {"value": 1.0}}}

RECIPES: dict[str, dict[str, Any]] = {
    # The original study's three arms (swinir-knowledge-distillation), with the later weight of its features.
    "classic-none@1": {"mapping": "first_k", "terms": {}},
    "classic-response@1": {"mapping": "first_k", "terms": _CLASSIC_RESPONSE},
    "classic-feature@1": {
        "mapping": "first_k",
        "terms": _CLASSIC_RESPONSE
        | {
            "feature": {
                "loss": "l1",
                "pairs": "sum",
                "projector": {"side": "teacher", "type": "linear", "bias": True},
                "target_norm": "none",
                "weight": {"value": 0.01},
            }
        },
    },
    "feature@1": {
        "mapping": "proportional",
        "terms": _CLASSIC_RESPONSE
        | {
            "feature": {
                "loss": "smooth_l1",
                "pairs": "mean",
                "projector": {"side": "student", "type": "linear", "bias": True},
                "target_norm": "calibrated",
                "weight": {"value": 0.06},
            }
        },
    },
    "affinity@1": {
        "mapping": "proportional",
        "terms": _CLASSIC_RESPONSE | {"affinity": {"mode": "window", "window": 8, "weight": {"value": 0.08}}},
    },
    "upcycle@1": {
        "mapping": "proportional",
        "terms": {
            "response": {"loss": "l1", "mask": "none", "weight": {"value": 0.2}},
            "upcycle": {"loss": "l1", "tiles": 1, "p": 0.3, "weight": {"value": 0.2}},
        },
    },
    "apprentice@1": {"mapping": "proportional", "start": "teacher", "terms": {}},
}

DEFAULT_RECIPE = "apprentice@1"
"""Where the file names a teacher and neither a recipe nor a term."""


def expand(recipe: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """The options of ``recipe`` with the file's ``own`` on top; raises KeyError for a name that is not published."""
    merged = _merged(RECIPES[recipe], own)
    terms = merged.get("terms")
    if isinstance(terms, dict):
        merged["terms"] = {name: term for name, term in terms.items() if term is not None}
    return merged


_SCALES = {"value", "grad_ratio", "loss_share"}


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        if key == "weight" and isinstance(under, Mapping):
            if not isinstance(value, Mapping):
                value = {"value": value}
            elif _SCALES & set(value):
                # Another kind of weight takes the recipe's place, it does not come beside it.
                under = {name: each for name, each in under.items() if name not in _SCALES}
        merged[key] = (
            _merged(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
        )
    return merged
