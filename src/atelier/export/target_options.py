"""Devices that a network is prepared for: what they take, what they lack, and what they may cost. Plain YAML."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atelier.errors import UserError, did_you_mean


class Budget(BaseModel):
    """Limits; None: none. ``milliseconds`` can only be measured on the device."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parameters: int | None = Field(None, gt=0)
    macs: int | None = Field(None, gt=0)
    activation_bytes: int | None = Field(None, gt=0)
    file_bytes: int | None = Field(None, gt=0)
    milliseconds: float | None = Field(None, gt=0)


class Target(BaseModel):
    """A device. ``operators`` are the ONNX operators that its delegate runs; ``commands`` may hold ``{model}``,
    ``{float_model}``, ``{list}`` and ``{activations}``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str
    size: str = Field(pattern=r"^\d+x\d+$")
    opset: int = Field(18, ge=18, le=23)
    activations: Literal[8, 16] = 8
    raw_layout: Literal["NCHW", "NHWC"] = "NCHW"
    operators: tuple[str, ...] = Field(min_length=1)
    operators_from: str = ""
    budget: Budget = Budget()
    commands: tuple[str, ...] = ()


def find_target(name: str, extra: Path | None = None) -> Target:
    """The target of that name, from ``extra`` or else from the package.

    Raises:
        UserError: an unknown name, or a file that is no table of targets.
    """
    own = _read(Path(str(files("atelier.export") / "targets.yml")))
    table = own | (_read(extra) if extra else {})
    if name not in table:
        raise UserError(
            f"unknown target '{name}'; allowed: {', '.join(table)}{did_you_mean(name, table)} "
            "(--targets FILE adds yours)"
        )
    where = f"{extra or 'targets'}: {name}"
    try:
        return Target.model_validate(_extended(name, table, own, where, ()))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'entry'}: {each['msg']}"
            + ("" if each["type"] == "missing" else f", given {each['input']!r}")
            for each in error.errors()
        )
        raise UserError(f"{where}: {problems}") from None


def _extended(
    name: str, table: dict[str, Any], own: dict[str, Any], where: str, seen: tuple[str, ...]
) -> dict[str, Any]:
    entry = dict(table[name])
    base = entry.pop("extends", None)
    if base is None:
        return entry
    # A file may give a shipped target's name to its own variant of it.
    source = own if base == name and table is not own else table
    if base not in source or (base, id(source)) in [(each, id(table)) for each in seen]:
        raise UserError(f"{where}: extends '{base}', which is no other target")
    whole = _extended(base, source, own, where, (*seen, name))
    budget = {**whole.get("budget", {}), **entry.pop("budget", {})}
    return {**whole, **entry, "budget": budget}


def _read(path: Path) -> dict[str, Any]:
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--targets {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--targets {path}: no YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(table, dict) or not all(isinstance(each, dict) for each in table.values()):
        raise UserError(f"--targets {path}: names of targets with their settings are expected")
    return {str(name): entry for name, entry in table.items()}
