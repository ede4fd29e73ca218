"""Making a larger or smaller network out of a trained one. Names are loaded on first use, because they need torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atelier.compress.calibrate import calibrated
    from atelier.compress.closeness import Fidelity, fidelity
    from atelier.compress.fold import fold_scale, to_grey
    from atelier.compress.inherit import InheritPlan, inherit_plan
    from atelier.compress.options import InheritOptions
    from atelier.compress.start import start_from
    from atelier.compress.transfer_options import TransferOptions
    from atelier.compress.transferring import Transferred, transfer

_HOME = {
    "Fidelity": "closeness",
    "InheritOptions": "options",
    "InheritPlan": "inherit",
    "TransferOptions": "transfer_options",
    "Transferred": "transferring",
    "calibrated": "calibrate",
    "fidelity": "closeness",
    "fold_scale": "fold",
    "inherit_plan": "inherit",
    "start_from": "start",
    "to_grey": "fold",
    "transfer": "transferring",
}

__all__ = [
    "Fidelity",
    "InheritOptions",
    "InheritPlan",
    "TransferOptions",
    "Transferred",
    "calibrated",
    "fidelity",
    "fold_scale",
    "inherit_plan",
    "start_from",
    "to_grey",
    "transfer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
