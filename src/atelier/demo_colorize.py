"""Colouring in miniature: train, colour a held-out grey film by the command's own way, measure, and judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from atelier.demo import DemoResult, shipped_option_file

if TYPE_CHECKING:
    from atelier.colorize.opening import OpenedSystem
    from atelier.evaluate.colouring import Colouring

#: Frames of the film, its side, and the shorter side at which colours are found.
FRAMES, SIDE, SHORT_SIDE = 24, 192, 192
#: What the film is drawn with; the clips that chose the best checkpoint have other streams.
_STREAM = "demo film"


def run_colorize_demo(overrides: Sequence[str] = ()) -> DemoResult:
    """Run ``options/colorize/tiny.yml`` and colour a film of a photograph that training never sees.

    Raises:
        UserError: an override is wrong, or the folder cannot be written.
    """
    from atelier.options.read import load_run_options

    recipe = shipped_option_file("colorize/tiny.yml")
    options = load_run_options(recipe, ["name=demo_colorize", *overrides])
    from atelier.colorize.opening import WeightFiles, open_system
    from atelier.train.run import train

    result = train(options)
    if not result.finished:
        return DemoResult(f"stopped after step {result.iteration}", result.exit_code)
    models = result.folder / "models"
    model = next(path for name in ("best", "latest") if (path := models / f"net_g_{name}.pth").is_file())
    film = result.folder / "film"
    true, grey, reference = write_film(film, options.manual_seed)
    opened = open_system(WeightFiles(model=model))
    coloured = colour(opened, grey, reference, film / "coloured")
    measured, page = measure(opened, true, reference, film)
    return _told(measured, [model, grey, reference, coloured, page, Path(result.report or result.folder)])


def write_film(folder: Path, seed: int) -> tuple[Path, Path, Path]:
    """A film of the held-out photograph: folders of true and of grey frames, and a picture that is its first frame."""
    from atelier.colorize.working import lightness
    from atelier.data.synthetic_clips import HELD_OUT, bundled_clip
    from atelier.images.files import write_image
    from atelier.images.lab import grey_rgb
    from atelier.images.tensors import from_tensor
    from atelier.randomness import Streams

    clip = bundled_clip(HELD_OUT, FRAMES, SIDE, Streams(seed, 0, 0)(_STREAM))
    for number, frame in enumerate(clip.rgb):
        write_image(folder / "true" / f"{number:06d}.png", frame)
        write_image(
            folder / "grey" / f"{number:06d}.png", from_tensor(grey_rgb(lightness(frame))[0], "uint8")
        )
    reference = folder / "reference.png"
    write_image(reference, clip.rgb[0])
    return folder / "true", folder / "grey", reference


def colour(opened: OpenedSystem, grey: Path, reference: Path, target: Path) -> Path:
    """What ``atelier colorize -m MODEL -i GREY --reference REFERENCE -o TARGET/ --short-side 192`` does."""
    from atelier.colorize.coloured import ColorizeOptions
    from atelier.colorize.reference_files import ReferenceFile
    from atelier.colorize.runner import colorize_film

    colorize_film(
        opened,
        str(grey),
        str(target / "%06d.png"),
        [ReferenceFile(reference)],
        ColorizeOptions(short_side=SHORT_SIDE, overwrite=True),
    )
    return target


def measure(opened: OpenedSystem, true: Path, reference: Path, folder: Path) -> tuple[Colouring, Path]:
    """All five modes beside the truth, and the page, as ``atelier evaluate --task colorize`` makes them."""
    from atelier.colorize.modes import MotionFinder, colour_in_modes
    from atelier.colorize.reference_files import ReferenceFile
    from atelier.colorize.state import MODES
    from atelier.evaluate.colouring import SeenFrame, measure_films
    from atelier.evaluate.colouring_report import PAGE, write_colouring
    from atelier.images.files import read_image

    frames = (read_image(path).pixels for path in sorted(true.iterdir()))
    coloured = colour_in_modes(
        opened.system, frames, [ReferenceFile(reference)], MODES, short_side=SHORT_SIDE
    )
    seen = (
        SeenFrame(
            frame.gt, {mode: frame.pictures[mode] for mode in reversed(MODES)}, number > 0, frame.begins
        )
        for number, frame in enumerate(coloured)
    )
    measured = measure_films(
        [("held-out film", seen)],
        MotionFinder(),
        judged="fused",
        beside="average",
        title="A held-out film, coloured",
        where=str(true),
        facts={"Reference": "its first frame", "Working short side": str(SHORT_SIDE)},
    )
    return measured, write_colouring(measured, folder)[PAGE]


def _told(measured: Colouring, paths: Sequence[Path]) -> DemoResult:
    """The table, where things are, what to do next, and the verdict."""
    from atelier.evaluate.colouring_report import colouring_text, mean_of

    model, grey, reference, coloured, page, training = paths
    lines = [
        colouring_text(measured),
        f"the film: {grey} (grey), {coloured} (coloured), reference {reference}",
        f"before and after, table, curves: {page}",
        f"report of the training: {training}",
        "what to do next:",
        f"  atelier colorize -m {model} -i FILM.mp4 --reference PICTURE.png -o COLOURED.mp4",
        "    (this small network needs a picture of the same scene: colour one frame, give it as PICTURE@FRAME)",
        f"  atelier evaluate --task colorize -m {model} --gt COLOUR_FILM.mp4 -o REPORT",
        "  docs/colorize-training.md: your own films, and networks that match by meaning",
    ]
    own = mean_of(measured, "fused", "psnr") or 0.0
    beaten = [
        row for row in ("grey", "exemplar", "average") if own <= (mean_of(measured, row, "psnr") or 0.0)
    ]
    if beaten:
        lines.append(
            f"FAILED: on this film the fused colours are no nearer to the truth than: {', '.join(beaten)}"
        )
        return DemoResult("\n".join(lines), 1)
    lines.append(
        "the fused colours are nearer to the truth than grey, the references alone and the plain average"
    )
    return DemoResult("\n".join(lines), 0)
