"""``atelier evaluate --task colorize``: coloured films beside the true ones."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from atelier.cli.compare import refuse_file
from atelier.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from atelier.colorize.opening import WeightFiles
    from atelier.colorize.reference_files import ReferenceFile
    from atelier.evaluate.colouring import SeenFrame


@dataclass(frozen=True)
class FilmsToEvaluate:
    """What was asked for.

    Attributes:
        gt: a film, a folder of frames, or a folder of several of those.
        results: coloured films to measure: the same shape as ``gt`` each; none: the system colours.
        weights: the system's files; nothing given: weight-free.
        references: as ``atelier colorize`` takes them; empty: each film's own first frame.
        anchors: the same.
        first_frame: what that frame is: ``exemplar`` or ``anchor``.
        short_side: of the pictures that the networks see.
        scene_cut: how scenes are found, as ``atelier colorize`` takes it.
        output: folder of CSV, JSON and page; None: none.
        device: where the system runs.
    """

    gt: Path
    results: Sequence[Path]
    weights: WeightFiles
    references: Sequence[str] = ()
    anchors: Sequence[str] = ()
    first_frame: str = "exemplar"
    short_side: int = 256
    scene_cut: str = "auto"
    output: Path | None = None
    device: str = "auto"


def evaluate_films(asked: FilmsToEvaluate, say: Callable[[str], None] = typer.echo) -> None:
    """Measure and print the table; write the report where a folder is named.

    Raises:
        UserError: anything wrong with films, references or weights, told as early as it can be known.
    """
    if asked.first_frame not in ("exemplar", "anchor"):
        raise UserError(
            f"--first-frame {asked.first_frame}: allowed are exemplar and anchor"
            f"{did_you_mean(asked.first_frame, ('exemplar', 'anchor'))}"
        )
    refuse_file(asked.output)
    films = films_below(asked.gt, "--gt")
    from atelier.colorize.scenes import scene_rule

    if scene_rule(asked.scene_cut).last_named >= 0 and len(films) > 1:
        raise UserError(
            f"--scene-cut {asked.scene_cut} lists frames of one film, but --gt has {len(films)}; measure them one by "
            "one"
        )
    if asked.results:
        _no_system(asked)
        rows = _labels(asked.results)
        coloured = {label: _matching(films, asked.gt, path) for label, path in rows.items()}
        judged, beside = list(rows)[-1], "grey"
        facts = {"Results": ", ".join(str(path) for path in asked.results)}
        title = ", ".join(rows)
        measure_rows: Callable[[str, Path], Iterator[SeenFrame]] = lambda name, path: _frames_of_results(  # noqa: E731
            path, {label: each[name] for label, each in coloured.items()}, asked.scene_cut
        )
    else:
        asked.weights.check()
        pinned = _references(asked, films)
        for path in films.values():
            _check_film(path, pinned, asked.scene_cut)
        from atelier.colorize.opening import open_system
        from atelier.restore.model import find_device

        device = find_device(asked.device)
        opened = open_system(asked.weights, device)
        for name, what in opened.parts.items():
            say(f"{name}: {what}")
        for note in opened.notes:
            say(f"note: {note}")
        judged, beside = "fused", "average"
        told = ", ".join(map(str, pinned)) if pinned else f"each film's first frame as {asked.first_frame}"
        facts = {"References": told, "Working short side": str(asked.short_side)}
        title = str(
            asked.weights.model or ("weight-free colorizer" if _weight_free(asked.weights) else "colorizer")
        )
        measure_rows = lambda name, path: _frames_of_system(asked, opened, path, pinned, device)  # noqa: E731

    from atelier.colorize.modes import MotionFinder
    from atelier.evaluate.colouring import measure_films
    from atelier.evaluate.colouring_report import FILES, colouring_text, write_colouring
    from atelier.files import require_writable
    from atelier.progress import progress

    if asked.output is not None:
        for name in FILES:
            require_writable(asked.output / name)
    with progress("Measuring", None, "frames") as bar:
        measured = measure_films(
            ((name, measure_rows(name, path)) for name, path in films.items()),
            MotionFinder(),
            judged=judged,
            beside=beside,
            title=title,
            where=str(asked.gt),
            facts=facts,
            seen=lambda film, frame: bar.advance(note=f"{film} {frame}"),
        )
    say(colouring_text(measured))
    if asked.output is not None:
        paths = write_colouring(measured, asked.output)
        say(f"report: {paths['report.html']}")


def films_below(path: Path, option: str) -> dict[str, Path]:
    """Name -> film: ``path`` itself (a film, a folder of frames), or all that the folder holds.

    Raises:
        UserError: nothing there, or no films in it.
    """
    from atelier.images.files import IMAGE_SUFFIXES
    from atelier.images.video import VIDEO_SUFFIXES

    if not path.exists():
        raise UserError(f"{option}: {path} does not exist")
    if path.is_file():
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise UserError(
                f"{option}: {path} is no film: {', '.join(VIDEO_SUFFIXES)}, or a folder of frames"
            )
        return {path.stem: path}
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    if any(entry.suffix.lower() in IMAGE_SUFFIXES for entry in entries if entry.is_file()):
        return {path.resolve().name: path}
    films: dict[str, Path] = {}
    for entry in entries:
        is_film = entry.is_file() and entry.suffix.lower() in VIDEO_SUFFIXES
        if is_film or (entry.is_dir() and _has_pictures(entry, IMAGE_SUFFIXES)):
            name = entry.stem if is_film else entry.name
            if name in films:
                raise UserError(f"{option}: {films[name]} and {entry} are both a film called '{name}'")
            films[name] = entry
    if not films:
        raise UserError(f"{option}: {path} holds no frames, no folders of frames and no films")
    return films


def _has_pictures(folder: Path, suffixes: Sequence[str]) -> bool:
    return any(entry.suffix.lower() in suffixes for entry in folder.iterdir())


def _labels(paths: Sequence[Path]) -> dict[str, Path]:
    """A name for each result: its own, longer where two are the same."""
    names = [path.resolve().stem if path.is_file() else path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise UserError(f"--result: {names[0]} is given twice")
    reserved = sorted({"grey", "ground truth"} & set(names))
    if reserved:
        raise UserError(f"--result: '{reserved[0]}' is the name of another row; rename the folder")
    return dict(zip(names, paths, strict=True))


def _matching(films: dict[str, Path], gt: Path, result: Path) -> dict[str, Path]:
    """The result's film for every true one: by name, or the only one for the only one."""
    found = films_below(result, "--result")
    if len(films) == len(found) == 1:
        return {next(iter(films)): next(iter(found.values()))}
    missing = [name for name in films if name not in found]
    if missing:
        raise UserError(
            f"--result {result} has no film '{missing[0]}', which {gt} has{did_you_mean(missing[0], found)}"
        )
    return found


def _no_system(asked: FilmsToEvaluate) -> None:
    from dataclasses import fields

    given = [each.name for each in fields(asked.weights) if getattr(asked.weights, each.name) is not None]
    if given or asked.references or asked.anchors:
        raise UserError(
            "--result measures films that are coloured already; leave the model, its parts and the references out"
        )


def _weight_free(weights: WeightFiles) -> bool:
    from dataclasses import fields

    return all(getattr(weights, each.name) is None for each in fields(weights))


def _references(asked: FilmsToEvaluate, films: dict[str, Path]) -> list[ReferenceFile]:
    if not asked.references and not asked.anchors:
        return []
    from atelier.colorize.reference_files import find_references

    references = find_references(asked.references, asked.anchors)
    pinned = [each for each in references if each.frame is not None]
    if pinned and len(films) > 1:
        raise UserError(
            f"{pinned[0]} pins a frame of one film, but --gt has {len(films)}; measure them one by one"
        )
    return references


def _check_film(path: Path, references: Sequence[ReferenceFile], scene_cut: str) -> None:
    """What would spoil the measurement after minutes, told before the first frame is coloured.

    Raises:
        UserError: a picture pinned beyond the end, frames of several sizes, a single frame, a first frame that shall
            give the colours and is grey.
    """
    import torch

    from atelier.colorize.ahead import check_source, last_named
    from atelier.colorize.bank import is_grey
    from atelier.colorize.coloured import ColorizeOptions
    from atelier.colorize.scenes import scene_rule
    from atelier.images.lab import LabScale, rgb_to_lab
    from atelier.images.tensors import to_tensor
    from atelier.images.video import open_video

    named = last_named(references, scene_rule(scene_cut))
    source = open_video(str(path))
    try:
        # What atelier colorize advises is none of this command's options.
        still = f"colour it with atelier colorize --mode exemplar, then measure that: --gt {path} --result COLOURED"
        check_source(source, ColorizeOptions(), named, remedy=still)
    finally:
        source.close()
    if not references:
        with torch.no_grad():
            rgb = to_tensor(next(_pixels(path)))[None, :3].expand(1, 3, -1, -1)
            if is_grey(LabScale.UNIT.normalise(rgb_to_lab(rgb))):
                raise UserError(
                    f"{path} is grey: its first frame should give the colours that --gt is compared with; "
                    "a film in true colours is needed"
                )


def _pixels(path: Path) -> Iterator[Any]:
    from atelier.images.video import open_video

    source = open_video(str(path))
    try:
        for frame in source.frames():
            yield frame.pixels
    finally:
        source.close()


def _frames_of_system(
    asked: FilmsToEvaluate, opened: Any, path: Path, references: Sequence[ReferenceFile], device: Any
) -> Iterator[SeenFrame]:
    """A film in all five modes; its first frame does not count where it is the reference."""
    from atelier.colorize.modes import colour_in_modes
    from atelier.colorize.reference_files import ReferenceFile
    from atelier.colorize.state import MODES
    from atelier.evaluate.colouring import SeenFrame
    from atelier.images.files import write_image

    with tempfile.TemporaryDirectory(prefix="atelier-evaluate-") as folder:
        own = not references
        if own:
            picture = Path(folder) / f"{path.stem}_frame_0.png"
            write_image(picture, next(_pixels(path)))
            references = [ReferenceFile(picture, 0 if asked.first_frame == "anchor" else None)]
        coloured = colour_in_modes(
            opened.system,
            _pixels(path),
            references,
            MODES,
            short_side=asked.short_side,
            scene_cut=asked.scene_cut,
            device=device,
        )
        for number, frame in enumerate(coloured):
            rows: dict[str, Any] = {mode: frame.pictures[mode] for mode in reversed(MODES)}  # grey first
            yield SeenFrame(frame.gt, rows, not frame.pinned and not (own and number == 0), frame.begins)


def _frames_of_results(path: Path, results: dict[str, Path], scene_cut: str) -> Iterator[SeenFrame]:
    """A film and what others made of it; as many frames each."""
    from atelier.colorize.scenes import SceneFinder, scene_rule
    from atelier.colorize.working import lightness
    from atelier.evaluate.colouring import SeenFrame

    scenes = SceneFinder(scene_rule(scene_cut))
    others = {label: _pixels(result) for label, result in results.items()}
    number = -1
    for number, gt in enumerate(_pixels(path)):
        whole = lightness(gt)
        rows = {"grey": _grey(whole, gt.dtype)}
        for label, frames in others.items():
            picture = next(frames, None)
            if picture is None:
                raise UserError(f"--result {results[label]} has {number} frames, {path} has more")
            rows[label] = picture
        yield SeenFrame(gt, rows, begins=scenes.begins(whole, number))
    for label, frames in others.items():
        if next(frames, None) is not None:
            raise UserError(f"--result {results[label]} has more frames than {path}, which has {number + 1}")


def _grey(whole: Any, dtype: Any) -> Any:
    import torch

    from atelier.colorize.working import join

    return join(whole, torch.zeros(1, 2, *whole.shape[-2:]), dtype)[0]
