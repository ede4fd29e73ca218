"""Everything that decides what becomes of a picture, as plain values: other processes open the same model from it."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atelier.files import sha256_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from atelier.restore.folder import RestorePixels
    from atelier.restore.model import RestorationModel
    from atelier.restore.tiling import Tile


@dataclass(frozen=True)
class Recipe:
    """A model and how it is used; the fields are those of ``atelier restore``.

    Attributes:
        weights: the model file.
        twin: another file and the share of ``weights`` in the mixture of both; None: nothing is mixed.
        tile: side in input pixels, "auto", or None for whole pictures.
        plugins: modules that register the network, and ``places`` where Python looks for them.
    """

    weights: Path
    twin: tuple[Path, float] | None = None
    device: str = "auto"
    param_key: str | None = None
    precision: str = "auto"
    tile: Tile = "auto"
    overlap: int | None = None
    outscale: float | None = None
    alpha_upsampler: str = "network"
    pre_pad: int = 0
    plugins: tuple[str, ...] = ()
    places: tuple[str, ...] = ()

    def load(self) -> RestorationModel:
        """The model, checked against the other values.

        Raises:
            UserError: it cannot be loaded or used so.
        """
        sys.path += [place for place in self.places if place not in sys.path]
        for name in self.plugins:
            importlib.import_module(name)
        # Through the module, so that a name replaced there is the one that counts.
        from atelier.restore.model import load_model

        model = load_model(
            self.weights,
            device=self.device,
            param_key=self.param_key,
            precision=self.precision,
            blend_with=self.twin,
        )
        model.check(outscale=self.outscale, alpha_upsampler=self.alpha_upsampler)
        return model

    def identity(self) -> dict[str, Any]:
        """What the model is, by content, as plain values: runs with the same give the same pictures.

        The files are hashed with all that belongs to them: an exported graph says nothing of its weights.
        """
        twin = self.twin
        return {
            "model": _digest_of(self.weights),
            "mixed with": None if twin is None else [_digest_of(twin[0]), twin[1]],
            "param_key": self.param_key,
            "plugin": list(self.plugins),
        }

    def bind(self, model: RestorationModel) -> RestorePixels:
        """What :func:`atelier.restore.restore_folder` calls for each picture."""

        def one(pixels: NDArray[Any], on_tile: Callable[[int, int], None]) -> NDArray[Any]:
            return model.restore(
                pixels,
                tile=self.tile,
                overlap=self.overlap,
                outscale=self.outscale,
                alpha_upsampler=self.alpha_upsampler,
                pre_pad=self.pre_pad,
                on_tile=on_tile,
            )

        return one


def _digest_of(path: Path) -> str:
    """SHA-256 of a weight file; of an exported model one over those of its graph, its weights and its JSON."""
    from atelier.restore.exported import facts_path, is_exported, model_files

    if not is_exported(path):
        return sha256_of(path)
    files = [*model_files(path), facts_path(path)]
    return hashlib.sha256("".join(sha256_of(file) for file in files if file.is_file()).encode()).hexdigest()
