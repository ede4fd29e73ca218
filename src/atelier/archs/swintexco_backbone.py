"""Where the weights of SwinTExCo's Swin transformer come from. Imports neither torch nor timm: an absence shall be
told before anything slow is loaded.
"""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

from atelier.errors import UserError

#: The model's name in timm, and the repository timm keeps its ImageNet weights in.
MODEL = "swinv2_cr_tiny_ns_224"
REPOSITORY = f"timm/{MODEL}.sw_in1k"
_FILES = ("model.safetensors", "pytorch_model.bin")
# A firewall that drops packets must not be mistaken for a slow connection: so long may an answer take.
_PATIENCE = 3.0


def require_timm() -> None:
    """Raises UserError where timm, an optional package, is not installed."""
    if find_spec("timm") is None:
        raise UserError(
            "exemplar: swintexco needs the package timm; install it with: pip install 'atelier[colorize]', "
            "or use exemplar: tiny"
        )


def find_backbone(*, download: bool = True) -> Path:
    """timm's own file of ImageNet weights, from its cache or, where the hub answers at once, downloaded into it.

    Args:
        download: False: the cache alone, nothing is asked of the network.

    Raises:
        UserError: there is none; within seconds, naming what can be done.
    """
    cached = _cached()
    if cached is not None:
        return cached
    why = _fetch() if download else "it is not in timm's cache"
    if isinstance(why, Path):
        return why
    raise UserError(
        f"SwinTExCo's backbone has no weights here ({REPOSITORY}: {why}). Either name a file "
        f"(backbone_weights: FILE); or fill timm's cache on a connected computer "
        f"(python -c \"import timm; timm.create_model('{MODEL}', pretrained=True)\") and copy it here; "
        f"or use exemplar: tiny, which needs none"
    )


def _cached() -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for name in _FILES:
        place = try_to_load_from_cache(REPOSITORY, name)
        if isinstance(place, str):
            return Path(place)
    return None


def _fetch() -> Path | str:
    """The downloaded file, or why there is none."""
    from huggingface_hub import constants, hf_hub_download

    if constants.HF_HUB_OFFLINE:
        return "not in timm's cache, and HF_HUB_OFFLINE is set"
    why = _no_answer(f"{constants.ENDPOINT}/{REPOSITORY}/resolve/main/{_FILES[0]}")
    if why is not None:
        return f"not in timm's cache, and {constants.ENDPOINT} cannot be reached: {why}"
    try:
        return Path(hf_hub_download(REPOSITORY, _FILES[0]))
    except (
        Exception
    ) as error:  # the hub's client passes on errors of three libraries; any of them means: no file
        return f"not in timm's cache, and the download failed: {str(error).splitlines()[0]}"


def _no_answer(url: str) -> str | None:
    """Why ``url`` cannot be fetched; None where it answers in time.

    In a thread of its own, because looking up a name has no time limit.
    """
    found: list[str | None] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PATIENCE):
                found.append(None)
        except urllib.error.URLError as error:
            found.append(str(error.reason))
        except (OSError, ValueError) as error:
            found.append(str(error))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    return found[0] if found else f"no answer within {_PATIENCE:g} seconds"
