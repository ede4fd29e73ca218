"""The table of coloured films as text, CSV, JSON and a page."""

from __future__ import annotations

import csv
import io
import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from atelier.evaluate.band_charts import BandChart, Series, make_band_chart
from atelier.evaluate.colouring import PERCEPTUAL, Colouring, FilmRows, ShownFrame, described
from atelier.evaluate.crops import Crop
from atelier.evaluate.embedding import Version, embed_versions
from atelier.evaluate.films import ROWS, TRUTH
from atelier.evaluate.page import fill_template
from atelier.evaluate.results import LIKE_THE_TRUTH, format_change, format_value, is_decibel
from atelier.evaluate.sections import MAX_BYTES, PictureCard
from atelier.files import atomic_write

PAGE = "report.html"
GREY = ROWS[0]
#: Films whose frames are shown.
_MOST_FILMS = 6
#: Short heads of the columns.
_HEADS = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "ab_psnr": "PSNR-ab",
    "ab_ssim": "SSIM-ab",
    "delta_ab": "|Δab|",
    "ciede2000": "CIEDE2000",
    "colourfulness": "colourfulness",
    "colourfulness_share": "share of the truth's",
    "cdc": "CDC",
    "cdc_off": "CDC, off the truth's",
    "warp_error": "warp error",
    "lpips": "LPIPS",
    "fid": "FID",
}
_DECIMALS = {
    **dict.fromkeys(("delta_ab", "ciede2000", "colourfulness_share", "warp_error"), 2),
    **dict.fromkeys(("colourfulness", "fid"), 1),
    **dict.fromkeys(("cdc", "cdc_off"), 5),
}


def mean_of(colouring: Colouring, row: str, measure: str) -> float | None:
    """The mean over films; None where the row has no such value."""
    if measure in PERCEPTUAL:
        found = colouring.perceptual.get(row, {}).get(measure)
        return None if found is None else found.value
    mean = colouring.result(row).metrics.get(measure)
    return None if mean is None or math.isnan(mean.value) else mean.value


def show(measure: str, value: float | None) -> str:
    """A value as the table has it; a dash for none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    places = _DECIMALS.get(measure, 2 if is_decibel(described()[measure].protocol) else 4)
    return f"{value:.{places}f}"


def colouring_text(colouring: Colouring) -> str:
    """The table as aligned text: rows × measures, then films of several scenes, then what is missing and why."""
    columns = _columns(colouring)
    lines = [["", *(_HEADS[name] for name in columns)]]
    lines += [
        [row, *(show(name, mean_of(colouring, row, name)) for name in columns)] for row in colouring.rows
    ]
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    text = [
        "  ".join(
            [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]
    text += [
        f"{film.name}: {len(film.scenes)} scenes, from frames {', '.join(map(str, film.scenes))}"
        for film in colouring.films
        if len(film.scenes) > 1
    ]
    text += [f"{name}: null, {reason}" for name, reason in colouring.missing().items()]
    return "\n".join(text)


def _columns(colouring: Colouring) -> list[str]:
    """The measures that some row has."""
    return [
        name
        for name in described()
        if any(mean_of(colouring, row, name) is not None for row in colouring.rows)
    ]


#: What :func:`write_colouring` writes.
FILES = ("summary.csv", "frames.csv", "evaluation.json", PAGE)


def write_colouring(colouring: Colouring, folder: Path) -> dict[str, Path]:
    """Write ``summary.csv``, ``frames.csv``, ``evaluation.json`` and the page; each appears whole or not at all."""
    folder = Path(folder)
    texts = {
        "summary.csv": summary_csv(colouring),
        "frames.csv": frames_csv(colouring),
        "evaluation.json": json.dumps(to_json(colouring), indent=1, ensure_ascii=False, allow_nan=False)
        + "\n",
        PAGE: page(colouring),
    }
    for name, text in texts.items():
        atomic_write(folder / name, text)
    return {name: folder / name for name in texts}


def summary_csv(colouring: Colouring) -> str:
    """One line a film and row, then the means over films; what there is not is empty."""
    names = list(described())
    lines: list[list[Any]] = [["film", "row", *names]]
    for film in colouring.films:
        for row, values in film.values.items():
            lines.append([film.name, row, *(_cell(values.get(name)) for name in names)])
    lines += [
        ["mean", row, *(_cell(mean_of(colouring, row, name)) for name in names)] for row in colouring.rows
    ]
    return _csv(lines)


def frames_csv(colouring: Colouring) -> str:
    """One line a film, row and frame that counts, of what single frames have."""
    names = [name for name in described() if any(name in each for each in _some_frame(colouring))]
    lines: list[list[Any]] = [["film", "row", "frame", *names]]
    for film in colouring.films:
        for row, frames in film.by_frame.items():
            for number, values in zip(film.numbers, frames, strict=True):
                lines.append([film.name, row, number, *(_cell(values.get(name)) for name in names)])
    return _csv(lines)


def _some_frame(colouring: Colouring) -> list[Any]:
    return [frames[0] for frames in colouring.films[0].by_frame.values()]


def to_json(colouring: Colouring) -> dict[str, Any]:
    """All of it as plain values; a measure without a value is null, with the reason beside it."""
    missing = colouring.missing()
    return {
        "title": colouring.title,
        "truth": colouring.where,
        "judged": colouring.judged,
        "facts": dict(colouring.facts),
        "measures": {
            name: {"protocol": each.protocol, "higher_is_better": each.higher_is_better}
            | ({"value": None, "reason": missing[name]} if name in missing else {})
            for name, each in described().items()
        },
        "mean": {
            row: {name: _number(mean_of(colouring, row, name)) for name in described()}
            for row in colouring.rows
        },
        "films": {
            film.name: {
                "frames": film.frames,
                "counted": list(film.numbers),
                "scenes": list(film.scenes),
                "size": [film.size[1], film.size[0]],
                "mean": {row: _numbers(values) for row, values in film.values.items()},
                "by_frame": {
                    row: [_numbers(each) for each in frames] for row, frames in film.by_frame.items()
                },
            }
            for film in colouring.films
        },
    }


def page(colouring: Colouring) -> str:
    """The page: table, curves over frames, pictures."""
    columns = _columns(colouring)
    table = [(row, [show(name, mean_of(colouring, row, name)) for name in columns]) for row in colouring.rows]
    shown = [(film, frame) for film in colouring.films[:_MOST_FILMS] for frame in film.shown]
    cards = [
        _card(colouring, film, frame, MAX_BYTES // max(1, len(shown)), f"frame-{place}")
        for place, (film, frame) in enumerate(shown)
    ]
    return fill_template(
        "colouring.html.j2",
        {},
        colouring=colouring,
        headline=headline(colouring),
        heads=[_HEADS[name] for name in columns],
        protocols=[f"{_HEADS[name]}: {_read(name)}" for name in columns],
        table=table,
        missing=[(_HEADS[name], reason) for name, reason in colouring.missing().items()],
        charts=[(film.name, _charts(film)) for film in colouring.films[:_MOST_FILMS]],
        strips=[_strip(film, frame, card) for (film, frame), card in zip(shown, cards, strict=True)],
        cards=cards,
        hidden=len(colouring.films) - _MOST_FILMS,
        counted=sum(len(film.numbers) for film in colouring.films),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _read(measure: str) -> str:
    """How a measure is read: the protocol, and which way is up where that alone says something."""
    each = described()[measure]
    if measure in LIKE_THE_TRUTH:
        return str(each.protocol)
    return f"{each.protocol}, {'higher' if each.higher_is_better else 'lower'} is better"


def headline(colouring: Colouring) -> str:
    """The judged row's PSNR, and what it has over (or lacks behind) every other one."""
    own = mean_of(colouring, colouring.judged, "psnr")
    assert own is not None
    differences = []
    for row in colouring.rows:
        other = mean_of(colouring, row, "psnr")
        if row not in (colouring.judged, TRUTH) and other is not None:
            differences.append(f"{format_change(own - other, 'PSNR')} against {row}")
    protocol = described()["psnr"].protocol
    share = mean_of(colouring, colouring.judged, "colourfulness_share")
    vivid = "" if share is None else f"; colourfulness {100 * share:.0f} % of the truth's"
    return f"{colouring.judged}: {format_value(own, protocol)}, {', '.join(differences)}{vivid}"


def _charts(film: FilmRows) -> list[BandChart]:
    charts = []
    for measure, title in (("psnr", "PSNR by frame"), ("colourfulness", "Colourfulness by frame")):
        series = [
            Series(row, points, place)
            for place, (row, frames) in enumerate(film.by_frame.items())
            if (measure != "psnr" or row != GREY)  # so far below that the others would become one line
            and (
                points := [
                    (float(number), *(values[measure],) * 3)
                    for number, values in zip(film.numbers, frames, strict=True)
                    if measure in values
                ]
            )
        ]
        chart = make_band_chart(
            title, series, unit="dB" if measure == "psnr" else "", show=lambda value: f"{value:.2f}"
        )
        charts += [chart] if chart is not None else []
    return charts


def _strip(film: FilmRows, frame: ShownFrame, card: PictureCard) -> Crop:
    """The pictures of a card side by side, with the PSNR of each."""
    at = film.numbers.index(frame.number)
    values = {
        row: format_value(each[at]["psnr"], "PSNR")
        for row, each in film.by_frame.items()
        if "psnr" in each[at]
    }
    picture = card.picture
    title = f"{card.image} ({frame.why})"
    return Crop(title, picture.layers, picture.width, picture.height, 0, 0, values)


def _card(colouring: Colouring, film: FilmRows, frame: ShownFrame, budget: int, anchor: str) -> PictureCard:
    versions = [Version(f"r{n}", row, picture) for n, (row, picture) in enumerate(frame.pictures.items())]
    kinds = {version.label: version.kind for version in versions}
    return PictureCard(
        anchor,
        f"{film.name}, frame {frame.number}",
        embed_versions(versions, budget),
        [],
        frame.why,
        kinds[colouring.rows[0]],
        kinds[colouring.judged],
    )


def _csv(lines: list[list[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()


def _cell(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(float(value))


def _number(value: float | None) -> float | str | None:
    if value is None or math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


def _numbers(values: Any) -> dict[str, Any]:
    return {name: _number(value) for name, value in values.items()}
