"""Reading an option file into plain data that remembers its lines: YAML, or ``.json`` with comments."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atelier.errors import UserError, did_you_mean
from atelier.options.json_reader import parse_json
from atelier.options.places import KeyPath
from atelier.options.yaml_reader import parse_yaml

#: An option file is a page or two; anything above is another file given by mistake.
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class OptionFile:
    """Options as written: plain data and where each key stands.

    ``lines`` maps every key path, and ``()`` for the whole, to its line number (from 1).
    """

    name: str
    data: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)


def read_option_file(path: str | Path) -> OptionFile:
    """Read a YAML or JSON (``.json``, ``.jsonc``) option file; nothing in it is executed.

    Raises:
        UserError: with file, line, column and the offending line where the file cannot be read.
    """
    path = Path(path)
    text = _read_text(path)
    if path.suffix.lower() in {".json", ".jsonc"}:
        data, lines = parse_json(text, str(path))
    else:
        data, lines = parse_yaml(text, str(path))
    if data is None:
        raise UserError(
            f"{path}: the file is empty; an option file needs at least name, datasets and network_g"
        )
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else f"a single value ({str(data)[:40]!r})"
        raise UserError(
            f"{path}:{lines[()]}: the file holds {kind}; an option file is a mapping of keys ('name: ...')"
        )
    return OptionFile(str(path), data, lines)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        like_a_file = "/" in str(path) or Path(path).suffix in {".yml", ".yaml", ".json", ".jsonc"}
        hint = "" if like_a_file else "; an override is written key=value"
        raise UserError(f"{path}: no such option file{_beside(path)}{hint}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: this is a folder; name an option file in it") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"{path}: cannot read the option file: {reason.lower()}") from None
    if len(content) > _MOST_BYTES:
        raise UserError(f"{path}: larger than {_MOST_BYTES >> 20} MiB; this cannot be an option file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: not UTF-8 text (byte 0x{content[error.start]:02x}); save the file as UTF-8"
        ) from None


def _beside(path: Path) -> str:
    """Other option files in the same folder, nearest name first."""
    try:
        names = sorted(
            entry.name for entry in path.parent.iterdir() if entry.suffix in {".yml", ".yaml", ".json"}
        )
    except OSError:
        return f"; the folder {path.parent} does not exist"
    return did_you_mean(path.name, names)
