"""The report's part about one validation set: its tables, worst and best cases, and picture cards."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from atelier.evaluate.embedding import EmbeddedPicture, embed
from atelier.evaluate.results import ValidationResult, format_change, format_value, shows_change
from atelier.evaluate.run_record import RunRecord, SampleFiles, find_samples
from atelier.evaluate.verdict import MetricRow, comparable_baseline, image_gains, metric_rows

#: All embedded pictures together, as base64 text.
MAX_BYTES = 14 * 2**20
#: Pictures shown with a slider.
MAX_PICTURES = 12
#: Worst and best cases each.
CASES = 3


@dataclass(frozen=True)
class Cell:
    """A number in a table: its text, what it sorts by, and whether it is a good (1) or bad (-1) change."""

    text: str
    sort: float | None
    sign: int = 0


@dataclass(frozen=True)
class ImageRow:
    """One picture's numbers, in the order of the set's columns."""

    image: str
    cells: list[Cell]
    anchor: str | None


@dataclass(frozen=True)
class Case:
    """One of the worst or best pictures."""

    image: str
    text: str
    anchor: str | None


@dataclass(frozen=True)
class PictureCard:
    """A slider: the picture, its numbers, and why it is shown."""

    anchor: str
    image: str
    picture: EmbeddedPicture
    numbers: list[str]
    tag: str
    left: str
    right: str


@dataclass(frozen=True)
class FilmsTable:
    """Whose colours -> numbers, in the order of ``columns``; a dash where a row has none."""

    columns: list[str]
    rows: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class SetSection:
    """Everything about one validation set."""

    name: str
    count: int
    iteration: int
    method: str | None
    metrics: list[MetricRow]
    columns: list[tuple[str, str]]
    rows: list[ImageRow]
    deciding: str
    by_gain: bool
    worst: list[Case]
    best: list[Case]
    cards: list[PictureCard]
    pictures_note: str
    films: FilmsTable | None = None


def set_section(record: RunRecord, name: str, index: int) -> SetSection:
    """Gather what the report shows of set ``name``; ``index`` keeps the anchors of several sets apart."""
    last, reference = record.last(name), record.baselines.get(name)
    metrics = metric_rows(record, name)
    deciding = metrics[0].key if metrics else ""
    gains = image_gains(last, reference, deciding) if metrics else {}
    ranking = gains or _values(last, deciding)
    worst_first = sorted(ranking, key=lambda image: ranking[image])
    many = min(CASES, len(worst_first) // 2)
    worst, best = worst_first[:many], worst_first[::-1][:many]
    tags = dict.fromkeys(worst, "among the worst") | dict.fromkeys(best, "among the best")
    chosen = _chosen(record, last, [*worst, *best])
    count = sum(len(results[-1].images) for results in record.validations.values())
    max_bytes = MAX_BYTES // max(min(count, MAX_PICTURES), len(record.validations))
    cards: list[PictureCard] = []
    for image in chosen:
        anchor = f"picture-{index}-{len(cards)}"
        card = _card(record, name, image, anchor, tags.get(image, ""), max_bytes)
        cards += [card] if card is not None else []
    anchors = {card.image: card.anchor for card in cards}
    text = _case_text(last, reference, deciding, gains)
    columns, rows = _image_rows(last, reference, metrics, anchors)
    return SetSection(
        name,
        len(last.images),
        last.iteration,
        reference.method if reference is not None else None,
        metrics,
        columns,
        rows,
        metrics[0].protocol if metrics else "",
        bool(gains),
        [Case(image, text(image), anchors.get(image)) for image in worst],
        [Case(image, text(image), anchors.get(image)) for image in best],
        cards,
        _pictures_note(len(cards), len(last.images)),
        _films(record, name),
    )


def _films(record: RunRecord, name: str) -> FilmsTable | None:
    """The table of a colouring run's last validation."""
    table = record.rows.get(name)
    if table is None:
        return None
    protocols = {key: mean.protocol for row in table.values() for key, mean in row.items()}
    cells = [
        (
            title,
            [
                format_value(row[key].value, protocol)
                if key in row and not math.isnan(row[key].value)
                else "–"
                for key, protocol in protocols.items()
            ],
        )
        for title, row in table.items()
    ]
    return FilmsTable(list(protocols.values()), cells)


def _values(result: ValidationResult, key: str) -> dict[str, float]:
    """Picture -> value, larger is better; for sets without a baseline."""
    if key not in result.metrics:
        return {}
    sign = 1 if result.metrics[key].higher_is_better else -1
    return {
        image: sign * values[key] for image, values in result.images.items() if not math.isnan(values[key])
    }


def _chosen(record: RunRecord, last: ValidationResult, first: list[str]) -> list[str]:
    """The pictures that get a slider: worst and best cases, then the set's order, up to this set's share."""
    share = max(1, MAX_PICTURES // len(record.validations))
    saved = [image for image in dict.fromkeys([*first, *last.images]) if _samples(record, last.name, image)]
    chosen = set(saved[:share])
    return [image for image in last.images if image in chosen]


def _samples(record: RunRecord, name: str, image: str) -> SampleFiles | None:
    # Runs with several sets may keep each set's pictures in a folder of its own.
    return find_samples(record.folder / "visualization" / name, image) or find_samples(
        record.folder / "visualization", image
    )


def _card(
    record: RunRecord, name: str, image: str, anchor: str, tag: str, max_bytes: int
) -> PictureCard | None:
    samples = _samples(record, name, image)
    picture = embed(samples, max_bytes) if samples is not None else None
    if picture is None:
        return None
    measured = [each for each in record.validations[name] if each.iteration == picture.iteration]
    numbers = []
    if measured and image in measured[0].images:
        reference = record.baselines.get(name)
        for key, mean in measured[0].metrics.items():
            value = measured[0].images[image][key]
            text = f"{mean.protocol} {format_value(value, mean.protocol)}"
            if comparable_baseline(reference, key, mean) and reference and image in reference.images:
                before = reference.images[image][key]
                text += f" · {reference.method} {format_value(before, mean.protocol)}"
                text += f" ({format_change(value - before, mean.protocol)})"
            numbers.append(text)
    else:
        numbers.append("No numbers are recorded for this iteration.")
    left = next((kind for kind in ("bicubic", "lq", "gt") if kind in picture.kinds), "restored")
    return PictureCard(anchor, image, picture, numbers, tag, left, "restored")


def _case_text(
    last: ValidationResult, reference: ValidationResult | None, key: str, gains: Mapping[str, float]
) -> Callable[[str], str]:
    def text(image: str) -> str:
        protocol, value = last.metrics[key].protocol, last.images[image][key]
        if not gains or reference is None:
            return format_value(value, protocol)
        before = reference.images[image][key]
        values = f"{format_value(before, protocol)} → {format_value(value, protocol)}"
        return f"{format_change(value - before, protocol)} ({values})"

    return text


def _image_rows(
    last: ValidationResult,
    reference: ValidationResult | None,
    metrics: list[MetricRow],
    anchors: Mapping[str, str],
) -> tuple[list[tuple[str, str]], list[ImageRow]]:
    """Columns as (protocol, what) and one row a picture."""
    columns: list[tuple[str, str]] = []
    for row in metrics:
        what = [str(reference.method), "restored", "change"] if row.baseline and reference else ["restored"]
        columns += [(row.protocol, each) for each in what]
    rows = []
    for image, values in last.images.items():
        cells: list[Cell] = []
        for row in metrics:
            value = values.get(row.key, math.nan)
            if row.baseline and reference:
                before = reference.images.get(image, {}).get(row.key, math.nan)
                change = value - before
                sign = (
                    0
                    if not row.directed or not shows_change(change, row.protocol)
                    else (1 if (change > 0) == row.higher_is_better else -1)
                )
                cells += [_cell(before, row.protocol), _cell(value, row.protocol)]
                cells.append(Cell(format_change(change, row.protocol), _sortable(change), sign))
            else:
                cells.append(_cell(value, row.protocol))
        rows.append(ImageRow(image, cells, anchors.get(image)))
    return columns, rows


def _cell(value: float, protocol: str) -> Cell:
    return Cell("–" if math.isnan(value) else format_value(value, protocol), _sortable(value))


def _sortable(value: float) -> float | None:
    """What the table sorts by; infinity as a number that JavaScript reads."""
    if math.isnan(value):
        return None
    return max(-1e300, min(1e300, value))


def _pictures_note(shown: int, count: int) -> str:
    if shown == 0:
        return "No sample pictures are saved for this set."
    if shown < count:
        return f"{shown} of {count} pictures are shown, the worst and best cases among them."
    return ""
