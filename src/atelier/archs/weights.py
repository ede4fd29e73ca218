"""Weight files: ``.pth`` (tensors and plain values only) and ``.safetensors``.

A ``.pth`` is opened with ``weights_only=True``: a pickle that wants to run code is refused. Our own files hold
``{'params': ..., 'params_ema': ..., 'arch': ..., 'options': ...}`` and open in spandrel, chaiNNer and the scripts of
the original projects.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from atelier.archs.network_options import NetworkOptions
from atelier.archs.registry import NETWORKS
from atelier.errors import UserError
from atelier.files import atomic_path

EXPORTED_SUFFIXES = (".onnx", ".param", ".xml", ".pt2")
"""Of models that other runtimes run; ``atelier.restore.exported`` opens them."""

_KEYS = ("params_ema", "params", "state_dict")
# Entries of our files that are records, not weights.
_RECORDS = ("options", "transfer", "frozen")
# Where safetensors keeps our metadata; its header holds strings only.
_HEADER = "atelier"


@dataclass(frozen=True)
class StateFile:
    """One set of weights as read.

    Attributes:
        state: name -> tensor on the CPU, ``module.`` prefixes stripped.
        param_key: the entry it stood under; None for a bare file.
        metadata: what stood beside the weights, ``arch`` and ``options`` among it in our own files,
            ``transfer`` where ``atelier transfer`` wrote it (from which file, how), and ``frozen``: parts that the
            file leaves out.
        path: where it was read; None for a state from memory.
    """

    state: Mapping[str, Tensor]
    param_key: str | None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape."""
        return {key: tuple(value.shape) for key, value in self.state.items()}


def read_weights(path: Path | str, param_key: str | None = None, *, also: tuple[str, ...] = ()) -> StateFile:
    """Read one set of weights.

    Args:
        path: ``.pth``, ``.pt``, ``.ckpt`` or ``.safetensors``.
        param_key: the entry to read; None: ``params_ema``, ``params``, ``state_dict``, or the file itself.
        also: further entries to look for, under which another project's files keep their weights.

    Raises:
        UserError: the file is absent, damaged, holds code or no weights, or lacks ``param_key``.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such weight file")
    if path.suffix.lower() in EXPORTED_SUFFIXES:
        raise UserError(
            f"{path} is an exported model, which restore, evaluate and compare run; weights are needed here: give the "
            f"file that it was exported from (.pth or .safetensors)"
        )
    if path.suffix.lower() == ".safetensors":
        state, metadata = _read_safetensors(path)
        stored = metadata.pop("param_key", None)
        if param_key is not None and param_key != stored:
            raise UserError(f"{path} has no entry '{param_key}': a safetensors file holds one set of weights")
        return StateFile(_named_tensors(state, path, None), stored, metadata, path)
    content = _read_pth(path)
    if param_key is not None:
        if not isinstance(content.get(param_key), Mapping):
            entries = [key for key, value in content.items() if isinstance(value, Mapping)]
            raise UserError(
                f"{path} has no entry '{param_key}'; it has: {', '.join(entries) or 'bare weights'}"
            )
        chosen: str | None = param_key
    else:
        chosen = next((key for key in (*_KEYS, *also) if isinstance(content.get(key), Mapping)), None)
    if chosen is None:
        return StateFile(_named_tensors(content, path, None), None, {}, path)
    metadata = {
        key: value for key, value in content.items() if not isinstance(value, Mapping) or key in _RECORDS
    }
    return StateFile(_named_tensors(content[chosen], path, chosen), chosen, metadata, path)


def save_weights(
    path: Path | str,
    states: Mapping[str, Mapping[str, Tensor]],
    metadata: Mapping[str, Any],
    *,
    minimal_masks: bool = False,
) -> None:
    """Write a weight file: whole or not at all.

    Where ``metadata`` names one of our networks (``arch`` and ``options``), constants that other programs expect in
    the file (SwinIR's masks and indices) are added in the official order.

    Args:
        path: ``.pth`` holds every entry of ``states``; ``.safetensors`` holds ``params_ema`` if there is one, else
            ``params``, with the metadata as JSON in the header.
        states: entry -> state of the network.
        metadata: plain values (numbers, strings, lists, dicts).
        minimal_masks: masks of the smallest size spandrel takes. Always so in safetensors, which cannot store the
            mask that all blocks share only once, and which the official scripts do not read.

    Raises:
        UserError: the file cannot be written, or its suffix is not one of the two.
    """
    path = Path(path)
    if path.suffix not in (".pth", ".safetensors"):
        raise UserError(f"cannot write weights to {path}: the name must end in .pth or .safetensors")
    options = _options_in(metadata)
    bare = path.suffix == ".safetensors"
    written = {
        key: _for_file(state, options, minimal_masks or bare)
        for key, state in states.items()
        if not bare or key == ("params_ema" if "params_ema" in states else "params")
    }
    with atomic_path(path) as temporary:
        try:
            if bare:
                ((key, state),) = written.items()
                header = {_HEADER: json.dumps({**metadata, "param_key": key}), "format": "pt"}
                save_file({name: value.clone() for name, value in state.items()}, temporary, metadata=header)
            else:
                with temporary.open("wb") as file:
                    torch.save({**written, **metadata}, file)
        except (RuntimeError, SafetensorError) as error:
            # torch's zip writer and safetensors hide the system's reason in an error of their own.
            raise _system_error(error) from error


def written_state(net: nn.Module) -> dict[str, Tensor]:
    """The state of ``net`` as a weight file holds it, constants of the official layout included."""
    options = getattr(net, "options", None)
    return _for_file(net.state_dict(), options if isinstance(options, NetworkOptions) else None, False)


def kept_state(net: nn.Module) -> dict[str, Tensor]:
    """The state of ``net`` as it is, without the parts that its weight files leave out."""
    state = net.state_dict()
    options = getattr(net, "options", None)
    if not isinstance(options, NetworkOptions):
        return state
    kept = options.file_state(state)
    return (
        {key: value for key, value in state.items() if key in kept} if options.works_on == "clips" else state
    )


def _for_file(
    state: Mapping[str, Tensor], options: NetworkOptions | None, minimal: bool
) -> dict[str, Tensor]:
    cpu = {key: value.detach().to("cpu").contiguous() for key, value in state.items()}
    return options.file_state(cpu, minimal_constants=minimal) if options is not None else cpu


def _options_in(metadata: Mapping[str, Any]) -> NetworkOptions | None:
    arch = metadata.get("arch")
    if arch not in NETWORKS or not isinstance(metadata.get("options"), Mapping):
        return None
    return NETWORKS.options_class(cast(str, arch)).model_validate(dict(metadata["options"]))


def _system_error(error: Exception) -> OSError:
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError):
        return cause
    return OSError(None, str(error).splitlines()[0])


def _read_pth(path: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "Unsupported class" in str(error):
            raise UserError(
                f"{path} holds Python objects beside tensors, which could run code; it is not opened. "
                f"Save the state dict alone, or use .safetensors"
            ) from None
        raise UserError(f"{path} is damaged or not a weight file") from None
    except PermissionError:
        raise UserError(f"{path}: no permission to read it") from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError, TypeError, IndexError):
        # Whatever torch's reader stumbles over: a cut zip archive, text, an empty file.
        raise UserError(f"{path} is damaged or not a weight file") from None
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not weights by name")
    return content


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = json.loads(header.get(_HEADER, "{}"))
    except (SafetensorError, OSError, ValueError):
        raise UserError(f"{path} is damaged or not a safetensors file") from None
    return state, metadata if isinstance(metadata, dict) else {}


def _named_tensors(content: Mapping[Any, Any], path: Path, key: str | None) -> dict[str, Tensor]:
    where = f"entry '{key}' of {path}" if key else str(path)
    wrong = [
        name for name, value in content.items() if not isinstance(value, Tensor) or not isinstance(name, str)
    ]
    if wrong or not content:
        what = f"'{wrong[0]}' is a {type(content[wrong[0]]).__name__}" if wrong else "it is empty"
        raise UserError(f"{where} does not hold weights: {what}, expected named tensors")
    wrapped = all(name.startswith("module.") for name in content)
    return {name.removeprefix("module.") if wrapped else name: value for name, value in content.items()}
