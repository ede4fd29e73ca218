"""What the comparison's page shows of single pictures: sliders, and zoomed crops where two versions differ most."""

from __future__ import annotations

import math

from atelier.evaluate.comparison import Comparison
from atelier.evaluate.crops import CROP_SIDE, Crop, largest_difference
from atelier.evaluate.embedding import EmbeddedPicture, Version, cut_layers, embed_versions
from atelier.evaluate.results import format_value
from atelier.evaluate.sections import MAX_BYTES, PictureCard

#: Pictures shown with a slider and a crop.
MAX_PICTURES = 10


def shown_pictures(comparison: Comparison) -> tuple[list[str], dict[str, str]]:
    """The pictures that are shown (worst and best among them, in the order of the set) and tags of those."""
    judged = next(column for column in comparison.columns if column.label == comparison.judged)
    rival = _rival(comparison)
    values, others = (
        judged.result.images,
        next(column.result.images for column in comparison.columns if column.label == rival),
    )
    ranking = sorted(values, key=lambda image: _finite(values[image]["psnr"] - others[image]["psnr"]))
    many = min(2, len(ranking) // 2)
    tags = dict.fromkeys(ranking[:many], f"worst against {rival}") | dict.fromkeys(
        ranking[len(ranking) - many :], f"best against {rival}"
    )
    chosen = set([*tags, *ranking][:MAX_PICTURES])
    return [image for image in values if image in chosen], tags


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _rival(comparison: Comparison) -> str:
    """What the judged model is set against: the original, else bicubic (or the input)."""
    return comparison.original or comparison.columns[-1].label


def picture_parts(comparison: Comparison) -> tuple[list[PictureCard], list[Crop]]:
    """Sliders and crops of the shown pictures."""
    images, tags = shown_pictures(comparison)
    cards, crops = [], []
    share = MAX_BYTES // max(1, len(images))
    for index, image in enumerate(images):
        versions = _versions(comparison, image)
        picture = embed_versions(versions, share)
        cards.append(_card(comparison, image, picture, f"picture-{index}", tags.get(image, "")))
        crops.append(_crop(comparison, image, versions))
    return cards, crops


def _versions(comparison: Comparison, image: str) -> list[Version]:
    """lq, every column, gt; models have kinds ``m0``, ``m1``, ... since file names may be anything."""
    pair = comparison.pictures[image].read(comparison.scale)
    scale = comparison.scale
    versions = []
    if scale > 1:
        versions.append(Version("lq", f"lq (pixels enlarged ×{scale})", pair.lq, scale))
    for index, column in enumerate(comparison.columns):
        if column.label == "nearest":
            continue  # the enlarged lq is the same picture
        kind = f"m{index}" if column.is_model else column.label
        versions.append(Version(kind, column.label, comparison.restore(image, column.label)))
    return [*versions, Version("gt", "gt (original)", pair.gt)]


def _kind_of(comparison: Comparison, label: str) -> str:
    index = [column.label for column in comparison.columns].index(label)
    return f"m{index}" if comparison.columns[index].is_model else label


def _card(comparison: Comparison, image: str, picture: EmbeddedPicture, anchor: str, tag: str) -> PictureCard:
    first = comparison.first.result
    mean = first.metrics["psnr"]
    numbers = [
        f"{mean.protocol}: "
        + " · ".join(
            f"{column.label} {format_value(column.result.images[image]['psnr'], mean.protocol)}"
            for column in comparison.columns
        )
    ]
    left, right = (_kind_of(comparison, label) for label in (_rival(comparison), comparison.judged))
    return PictureCard(anchor, image, picture, numbers, tag, left, right)


def _crop(comparison: Comparison, image: str, versions: list[Version]) -> Crop:
    kinds = {version.kind: version.pixels for version in versions}
    ours, rival = (kinds[_kind_of(comparison, label)] for label in (comparison.judged, _rival(comparison)))
    top, left, height, width = largest_difference(ours, rival, CROP_SIDE, comparison.scale)
    values = {}
    for column in comparison.columns:
        mean = column.result.metrics["psnr"]
        values[column.label] = format_value(column.result.images[image]["psnr"], mean.protocol)
    layers = cut_layers(versions, (top, left, height, width))
    return Crop(image, layers, width, height, left, top, values)
