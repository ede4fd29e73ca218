"""Films as numbered pictures that are written: their names, and what tells of whose they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atelier.errors import UserError
from atelier.files import atomic_write, require_writable
from atelier.images.files import write_image
from atelier.images.video_frames import is_pattern, natural_order, number_in, numbered
from atelier.images.video_ledger import Ledger, LedgerTarget, is_unfinished

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from atelier.images.video import FrameSource, VideoFrame

_HIDDEN, _FINISHED, _VERSION = ".atelier-", ".made", 1


def picture_names(output: str, source: str, files: Sequence[Path]) -> Callable[[int], Path]:
    """Where the picture of a frame goes, by its index.

    In a folder it has the name of the picture it was made of, as PNG, or six digits where a film is the source.
    A pattern counts from 0, or from the first number of a pattern that is the source.

    Args:
        output: a pattern or a folder.
        source: the name by which the frames were opened.
        files: the source's pictures; none where it is a film.
    """
    if is_pattern(output):
        first = number_in(source, files[0]) if files and is_pattern(source) else None
        return lambda index: numbered(output, (first or 0) + index)
    folder = Path(output)
    if not files:
        return lambda index: numbered(str(folder / "%06d.png"), index)
    names = [path.stem for path in files]
    if len({name.casefold() for name in names}) < len(names):
        names = [path.name for path in files]
    return lambda index: folder / f"{names[index]}.png"


def notes_of_pictures(output: str) -> Path:
    """Where a run that writes pictures to ``output`` notes what is finished; gone once all is."""
    return _hidden(output, ".parts")


def note_of_pictures(output: str) -> Path:
    """Where the :class:`Finished` of ``output`` is."""
    return _hidden(output, _FINISHED)


def _hidden(output: str, suffix: str) -> Path:
    path = Path(output) if is_pattern(output) else Path(output) / "frames"
    return path.parent / f"{_HIDDEN}{path.name.replace('%', '_')}{suffix}"


@dataclass(frozen=True)
class Finished:
    """What stays beside pictures that are all there: without it those of another film were taken for theirs.

    Attributes:
        source: fingerprint of what they were made of; None: a pipe.
        name: its whole name.
        pictures: names of the files, in order.
    """

    source: str | None
    name: str
    pictures: list[str]

    def save(self, path: Path) -> None:
        """Write it."""
        atomic_write(path, json.dumps({"version": _VERSION, **asdict(self)}) + "\n")

    @classmethod
    def load(cls, path: Path) -> Finished | None:
        """The note at ``path``; None where there is none, or none that can be understood."""
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            if told.pop("version") != _VERSION:
                return None
            return cls(**told)
        except (OSError, ValueError, TypeError, AttributeError, KeyError):
            return None


def finished_pictures(output: str, source: str | None) -> list[Path] | None:
    """The pictures that a finished run wrote to ``output``, whether they are still there or not.

    Args:
        source: fingerprint of what they should be made of; None is nobody's.

    Returns:
        None where no run has finished, or the last one was of another source.
    """
    note = None if is_unfinished(notes_of_pictures(output)) else Finished.load(note_of_pictures(output))
    if note is None or source is None or note.source != source:
        return None
    return [note_of_pictures(output).parent / Path(name).name for name in note.pictures]


class PictureWriter(LedgerTarget):
    """Pictures of a pattern or in a folder, named by :func:`picture_names`.

    They appear whole under their names; what has been finished is noted in ``.atelier-….parts/`` beside them, and in
    the end in a :class:`Finished`.

    Raises:
        UserError: a pattern of something else than pictures, a folder that cannot be written, other work, or pictures
            with such names that were made of something else (``overwrite`` removes them).
    """

    def __init__(
        self,
        output: str,
        source: FrameSource,
        size: tuple[int, int],
        *,
        options: Mapping[str, Any] | None = None,
        segment: int = 250,
        overwrite: bool = False,
    ) -> None:
        kinds = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".webp", ".bmp")
        if is_pattern(output) and Path(output).suffix.lower() not in kinds:
            raise UserError(f"{output}: pictures are png, tif, jpg, webp or bmp")
        if segment < 1:
            raise UserError(f"--segment must be at least 1 frame, not {segment}")
        files: list[Path] = getattr(source, "files", [])
        self._name = picture_names(output, source.facts.name, files)
        folder = self._name(0).parent
        if files and folder.resolve() == files[0].parent.resolve():
            raise UserError(f"{folder} holds the source's pictures; choose another output folder")
        self.segment, self._size, self._source_name = segment, size, source.facts.name
        self.left_out: list[str] = []
        require_writable(self._name(0))
        decided = {"size": list(size), "segment": segment, **(options or {})}
        self._note = note_of_pictures(output)
        self._made_of = (source.fingerprint(), str(Path(source.facts.name).resolve()))
        self._ledger = Ledger(notes_of_pictures(output), self._made_of[0], decided, overwrite=overwrite)
        self._frames = 0
        try:
            if not self._ledger.goes_on:
                every = output if is_pattern(output) else None if files else str(folder / "%06d.png")
                self._make_room(folder, every, [self._name(index) for index in range(len(files))], overwrite)
        except BaseException:
            self._ledger.release()
            raise

    def write(self, pixels: NDArray[Any], frame: VideoFrame) -> bool:
        """Write the picture made of ``frame``; True when the segment is full."""
        check_size(pixels, self._size)
        self._ledger.begin()
        write_image(self._name(frame.index), pixels)
        self._frames += 1
        return self._frames == self.segment

    def end_segment(self, state: bytes | None = None) -> None:
        """Note the pictures as finished, with what is needed to go on."""
        if self._frames:
            self._ledger.add({"frames": self._frames}, state)
            self._frames = 0

    def abandon(self) -> None:
        """Let others work here; nothing is unfinished, pictures are whole."""
        self._ledger.release()

    def finish(self) -> None:
        """Replace the notes by the last one: which pictures there are, and of what."""
        self.end_segment()
        names = [self._name(index).name for index in range(self._ledger.frames)]
        before = Finished.load(self._note)
        for name in set(before.pictures).difference(names) if before is not None else ():
            # Of the same source, see _make_room: it gave more frames, or they were numbered otherwise.
            self._note.with_name(Path(name).name).unlink(missing_ok=True)
        Finished(*self._made_of, names).save(self._note)
        self._ledger.remove()

    def _make_room(self, folder: Path, every: str | None, coming: list[Path], overwrite: bool) -> None:
        """No pictures of something else may be left among ours: whoever reads them would take all for one film.

        Args:
            every: pattern of the names; None where they are those of the source's pictures.
            coming: what will be written, where that is known before.
        """
        before = Finished.load(self._note)
        if before is not None and before.source == self._made_of[0] is not None:
            return
        others = {path for path in coming if path.exists()}
        if every is not None:
            others |= {path for path in folder.iterdir() if number_in(every, path) is not None}
        if before is not None:
            others |= {path for name in before.pictures if (path := folder / Path(name).name).is_file()}
        renewed = before is not None and before.name == self._made_of[1] and others.issubset(coming)
        if not others or renewed:
            return
        if not overwrite:
            first = min(others, key=natural_order)
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            raise UserError(
                f"{folder} has pictures already that were not made of {self._source_name} as it is now: {first.name}"
                f"{more}; --overwrite removes them, or choose another output"
            )
        gone = {path.name for path in others}
        for note in folder.glob(f"{_HIDDEN}*{_FINISHED}"):
            found = Finished.load(note)
            if found is not None and not gone.isdisjoint(found.pictures):
                note.unlink()
        for path in others:
            path.unlink()


def check_size(pixels: NDArray[Any], size: tuple[int, int]) -> None:
    """Refuse a picture of another size than ``size``, width and height, which was promised."""
    if pixels.shape != (size[1], size[0], 3):
        raise UserError(f"a picture of {size[0]}x{size[1]} was expected, not {pixels.shape}")
