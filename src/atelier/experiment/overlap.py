"""Test pictures that are also trained or validated on would make the test's verdict worthless."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from atelier.data.options import ImagesOptions
from atelier.data.pairs import Pictures, open_pictures
from atelier.data.sources import listed, parallel
from atelier.errors import UserError
from atelier.experiment.plan import Plan


def check_overlap(plan: Plan) -> dict[str, str]:
    """Refuse a study whose test sets share a picture with training or validation.

    Pictures are the same when their decoded pixels are, whatever they are called and however they are packed. Only
    pictures of equal size are decoded. A crop of a test picture is not found.

    Returns:
        Data set -> fingerprint (names, sizes, pairing), for all sets of the study.

    Raises:
        UserError: naming each pair.
    """
    options, train = plan.reference.options, plan.reference.options.datasets.images
    datasets = {"datasets.train": train}
    for arm in plan.arms.values():
        if arm.options.datasets.train != train:
            datasets[f"datasets.train of arm '{arm.name}'"] = arm.options.datasets.images
    wanted: dict[str, ImagesOptions] = dict(datasets)
    wanted |= {f"datasets.{key}": each for key, each in options.datasets.validation_images.items()}
    wanted |= {f"test.{name}": each for name, each in plan.study.test.items()}
    opened = {
        label: open_pictures(each, scale=options.scale, in_channels=options.network_g.in_channels)
        for label, each in wanted.items()
    }
    tests = {label for label in opened if label.startswith("test.")}
    sizes = {shape[:2] for label in tests for shape in opened[label].gt_shapes}
    hashes = {label: _hashes(pictures, sizes) for label, pictures in opened.items()}
    problems = [
        f"{label}: {place} is {hashes[other][digest]} of {other}"
        for label in opened
        if label in tests
        for digest, place in hashes[label].items()
        for other in opened
        if other not in tests and digest in hashes[other]
    ]
    if problems:
        raise listed("test sets must hold pictures that neither training nor validation has seen:", problems)
    return {label: pictures.fingerprint for label, pictures in opened.items()}


def _hashes(pictures: Pictures, sizes: set[tuple[int, int]]) -> Mapping[str, str]:
    """Hash of the decoded pixels -> place, of the clean pictures that have one of these (H, W)."""
    chosen = [index for index, shape in enumerate(pictures.gt_shapes) if shape[:2] in sizes]

    def digest(place: int) -> str:
        pixels = np.ascontiguousarray(pictures.gt.read(chosen[place]))
        # A grey picture saved as RGB is the same picture, and so is one with alpha.
        grey = pixels.shape[2] < 3 or all(
            np.array_equal(pixels[..., 0], pixels[..., channel]) for channel in (1, 2)
        )
        colours = np.ascontiguousarray(pixels[..., :1] if grey else pixels[..., :3])
        state = hashlib.blake2b(f"{colours.shape} {colours.dtype}".encode(), digest_size=16)
        state.update(colours.tobytes())
        return state.hexdigest()

    found: dict[str, str] = {}
    for index, result in zip(chosen, parallel(digest, len(chosen)), strict=True):
        if isinstance(result, UserError):
            raise result
        found.setdefault(result, pictures.gt.items[index].place)
    return found
