"""The references of a film: encoded once and one after another, chosen for each scene, bounded in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor

from atelier.archs.weights import read_weights
from atelier.colorize.matcher import ReferenceCache, keep_references
from atelier.colorize.pictures import reference_lab
from atelier.colorize.reference_files import ReferenceFile
from atelier.colorize.references import Anchor, References, Role
from atelier.colorize.system import FusionSystem, PreparedReferences
from atelier.colorize.working import WorkingSize, resized
from atelier.errors import UserError
from atelier.images.files import read_image
from atelier.images.lab import LabScale, rgb_to_lab
from atelier.images.tensors import to_tensor

PerScene = Literal["alike", "best", "all"]
#: So much less than the best one may a reference resemble a scene's first frame and still be of the same scene. Seen
#: with pictures of the same scene: 0.03 to 0.04 less, of other scenes 0.12 to 0.19.
ALIKE = 0.06
#: A picture whose a and b deviate less from their means (Lab units) is grey, or tinted evenly.
GREY = 1.0


@dataclass(frozen=True)
class Choice:
    """The references of a scene, by number; ``resemblance`` of all of them where they had to be compared."""

    kept: tuple[int, ...]
    left_out: tuple[int, ...] = ()
    resemblance: tuple[float, ...] = ()


class ReferenceBank:
    """References of one film.

    Features are computed once for each reference. As long as all together have no more than ``limit`` keys they stay
    in memory; beyond, they lie in a temporary folder, and only those chosen for the scene are in memory.

    Args:
        system: encodes and compares; in evaluation mode.
        files: at least one.
        size: of the film's frames; exemplars are made as small as its working size.
        limit: keys that may be compared with at once; None: four times the frame's positions.
        saturation: factor of the references' chroma.
        per_scene: compare with those that resemble a scene's first frame nearly as much as the best one does (colours
            of other scenes would mix in), with that one alone, or with all.

    Raises:
        UserError: a file that is no picture, or a grey one (those of a folder are left out and noted; none left).
    """

    def __init__(
        self,
        system: FusionSystem,
        files: Sequence[ReferenceFile],
        size: WorkingSize,
        *,
        limit: int | None = None,
        saturation: float = 1.0,
        per_scene: PerScene = "alike",
        device: torch.device | str = "cpu",
    ) -> None:
        if limit is not None and limit < 1:
            raise UserError(f"--max-reference-keys must be at least 1, not {limit}")
        if saturation < 0:
            raise UserError(f"--reference-saturation must not be negative, given {saturation:g}")
        self._system, self._size, self._saturation, self._device = system, size, saturation, device
        self._per_scene = per_scene
        self.limit = 4 * size.positions if limit is None else limit
        self.notes: list[str] = []
        self.files: list[ReferenceFile] = []
        self.counts: list[int] = []
        self._folder: TemporaryDirectory[str] | None = None
        self._caches: list[ReferenceCache] = []
        self._joined: tuple[tuple[int, ...], ReferenceCache] | None = None
        try:
            for file in files:
                self._add(file)
        except BaseException:
            self.close()
            raise
        if not self.files:
            raise UserError(
                f"all {len(files)} references are grey ({', '.join(str(file) for file in files[:5])}); colour pictures "
                "are needed"
            )
        self._anchors = {file.frame: file for file in self.files if file.frame is not None}

    @property
    def roles(self) -> list[Role]:
        """What each reference may be used for."""
        return ["exemplar" if file.frame is None else Anchor(file.frame) for file in self.files]

    def choose(self, work: Tensor, frame: int) -> Choice:
        """The references of the scene that begins with ``frame``, whose unit lightness is ``work`` ``[1, 1, H, W]``."""
        numbers = tuple(range(len(self.files)))
        fits = sum(self.counts) <= self.limit
        if len(numbers) == 1 or (fits and self._per_scene == "all"):
            return Choice(numbers)
        likeness = tuple(
            float(self._system.exemplar.resemblance(work, self._cache(number))[0, 0]) for number in numbers
        )
        if self._per_scene == "best":
            kept = [max(numbers, key=lambda number: likeness[number])]
            return Choice(tuple(kept), (), likeness)
        if self._per_scene == "alike":
            numbers = tuple(number for number in numbers if likeness[number] >= max(likeness) - ALIKE)
        kept, left = keep_references(
            [self.roles[number] for number in numbers],
            [self.counts[number] for number in numbers],
            self.limit,
            frame,
            [likeness[number] for number in numbers],
        )
        return Choice(tuple(numbers[k] for k in kept), tuple(numbers[k] for k in left), likeness)

    def prepared(self, kept: tuple[int, ...], frame: int, pinned: Tensor | None) -> PreparedReferences:
        """What a frame is coloured with: the keys of the references chosen, and its own colours (:meth:`anchor`)."""
        if self._joined is None or self._joined[0] != kept:
            self._joined = None  # not both at once
            self._joined = kept, ReferenceCache.join([self._cache(number) for number in kept])
        cache = self._joined[1]
        if pinned is not None:
            return PreparedReferences(cache, References(pinned[None], (Anchor(frame),)))
        # No frame asks for the pictures themselves but one that is pinned.
        nothing = torch.zeros(1, 1, 3, 1, 1, device=self._device)
        return PreparedReferences(cache, References(nothing, ("exemplar",)))

    def anchor(self, frame: int) -> Tensor | None:
        """The picture that pins ``frame``, unit LAB ``[1, 3, H, W]`` of the padded working size; None: none does."""
        file = self._anchors.get(frame)
        return None if file is None else self._saturated(self._lab(file))

    def close(self) -> None:
        """Remove what lies on the disk."""
        self._caches = []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    @torch.no_grad()
    def _add(self, file: ReferenceFile) -> None:
        lab = self._lab(file)
        if is_grey(lab):
            if not file.from_folder:
                raise UserError(
                    f"the reference {file.path} is grey: colours are taken from it, so it must have some"
                )
            self.notes.append(f"{file.path} is grey and was left out")
            return
        lab = self._saturated(lab)
        role: Role = "exemplar" if file.frame is None else Anchor(file.frame)
        cache = self._system.exemplar.prepare(References(lab[None], (role,)))
        self.files.append(file)
        self.counts.append(sum(cache.counts))
        self._caches.append(cache)
        if self._folder is None and sum(self.counts) > self.limit:
            self._folder = TemporaryDirectory(prefix="atelier-references-")
            for number, each in enumerate(self._caches):
                self._store(number, each)
        elif self._folder is not None:
            self._store(len(self.files) - 1, cache)
        if self._folder is not None:
            self._caches = []

    def _lab(self, file: ReferenceFile) -> Tensor:
        """Unit LAB ``[1, 3, h, w]`` at working size; an anchor exactly as large as a padded frame."""
        pixels = read_image(file.path).pixels
        colours = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1].repeat(3, axis=2)
        rgb = to_tensor(colours)[None].clamp(0, 1).to(self._device)
        if file.frame is None:
            lab = reference_lab(rgb, min(self._size.content))
        else:
            height, width = rgb.shape[-2:]
            film = self._size.full
            if abs(width * film[0] - height * film[1]) > max(width, height, *film):
                raise UserError(
                    f"{file} is {width}x{height}, which is another shape than the film's {film[1]}x{film[0]}; "
                    "a picture that pins a frame must show exactly that frame"
                )
            small = resized(rgb, self._size.content).clamp(0, 1)
            lab = self._size.pad(LabScale.UNIT.normalise(rgb_to_lab(small)))
        return lab

    def _saturated(self, lab: Tensor) -> Tensor:
        return torch.cat([lab[:, :1], (lab[:, 1:] * self._saturation).clamp(-1, 1)], dim=1)

    def _store(self, number: int, cache: ReferenceCache) -> None:
        tensors = {"features": cache.features, "ab": cache.ab}
        if cache.valid is not None:
            tensors["valid"] = cache.valid
        torch.save({"state_dict": {k: v.cpu() for k, v in tensors.items()}}, self._path(number))

    def _cache(self, number: int) -> ReferenceCache:
        if self._folder is None:
            return self._caches[number]
        state: Any = read_weights(self._path(number)).state
        cache = ReferenceCache(
            state["features"], state["ab"], state.get("valid"), (int(state["features"].shape[1]),)
        )
        return cache.to(self._device)

    def _path(self, number: int) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / f"{number:06d}.pth"


def is_grey(lab: Tensor) -> bool:
    """Whether a picture ``[1, 3, h, w]`` in unit LAB has hardly any colour, or one tint throughout."""
    chroma = LabScale.UNIT.restore(lab)[0, 1:].flatten(1)
    return float(chroma.var(dim=1, correction=0).sum().sqrt()) < GREY
