"""Programs of ``torch.export`` (``.pt2``), after a look at whether loading them could run foreign code."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from atelier.errors import UserError
from atelier.restore.exported import METADATA_KEY, Session


def files_of(path: Path) -> list[Path]:
    """See :func:`atelier.restore.exported.model_files`."""
    return [path]


def open_session(path: Path, device: str) -> Session:
    """See :func:`atelier.restore.exported.open_exported`."""
    from atelier.restore.model import find_device

    where = find_device(device)
    _require_plain(path)
    extra = {f"{METADATA_KEY}.json": ""}
    try:
        program = torch.export.load(str(path), extra_files=extra)
    except Exception as error:  # another version's schema, an operator: torch has many types for it
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: this PyTorch cannot open it: {first[:300]}") from None
    if where.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, where)
    module = program.module()

    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            result: Tensor = module(x)
        return result.float()

    text = extra[f"{METADATA_KEY}.json"]
    return Session(
        run,
        f"PyTorch {torch.__version__}, exported program ({where})",
        (text.decode() if isinstance(text, bytes) else text) or None,
        device=where,
    )


def _require_plain(path: Path) -> None:
    """``torch.export.load`` unpickles whatever an archive calls pickled; here only what ``weights_only`` allows passes.

    Raises:
        UserError: no archive, or one that holds more than tensors and text.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            unsafe = next((name for name in names if not _is_plain(archive, name)), None)
    except (zipfile.BadZipFile, json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError) as error:
        raise UserError(f"{path} is no program of torch.export, or damaged: {error}") from None
    # Readers differ in which of two members of one name they take.
    if len(set(names)) < len(names):
        raise UserError(f"{path} holds two members of one name; refused")
    if unsafe is not None:
        raise UserError(f"{path}: {unsafe} holds more than tensors, and loading it could run code; refused")


def _is_plain(archive: zipfile.ZipFile, name: str) -> bool:
    inside = name.partition("/")[2] or name
    if inside.startswith(("data/weights/", "data/constants/")) and inside.endswith("_config.json"):
        entries = json.loads(archive.read(name))["config"].values()
        return all(
            not entry["use_pickle"] and entry["path_name"].startswith(("weight_", "tensor_"))
            for entry in entries
        )
    if inside.endswith(".pt"):
        try:
            torch.load(io.BytesIO(archive.read(name)), weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError):
            return False
        return True
    # Archives of PyTorch up to 2.7 keep their tensors in serialized_*.pt; still older ones pickle under other names.
    return not inside.startswith("serialized_") or inside == "serialized_exported_program.json"
