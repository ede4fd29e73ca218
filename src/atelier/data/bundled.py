"""scikit-image's bundled photographs, read from the installed package without network.

Only pictures that lie in the installed wheel are named here; scikit-image would download the others. The
paths are found without importing scikit-image, which would cost about a second.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from atelier.errors import UserError, did_you_mean

#: Colour photographs (RGB, 8 bit), name -> file.
COLOUR = {
    name.partition(".")[0]: name
    for name in (
        "astronaut.png",
        "chelsea.png",
        "coffee.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "motorcycle_left.png",
        "motorcycle_right.png",
        "retina.jpg",
        "rocket.jpg",
    )
}
#: Grey photographs (8 bit).
GREY = {
    name.partition(".")[0]: name
    for name in (
        "brick.png",
        "camera.png",
        "cell.png",
        "clock_motion.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "moon.png",
        "page.png",
        "text.png",
    )
}
#: What ``dataroot_gt: bundled`` means when ``pictures`` is left out; the two lists share no scene.
TRAIN_DEFAULT = (
    "coffee",
    "hubble_deep_field",
    "ihc",
    "motorcycle_left",
    "motorcycle_right",
    "retina",
    "rocket",
)
VAL_DEFAULT = ("astronaut", "chelsea")


def bundled_names() -> list[str]:
    """Every known name, colour photographs first."""
    return [*COLOUR, *GREY]


def check_names(names: list[str] | tuple[str, ...]) -> None:
    """Raise ValueError for a name that is unknown (with the nearest one) or given twice."""
    known = bundled_names()
    for name in names:
        if name not in known:
            raise ValueError(
                f"unknown bundled picture '{name}'{did_you_mean(name, known)}; "
                f"colour: {', '.join(COLOUR)}; grey: {', '.join(GREY)}"
            )
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(f"bundled pictures named twice: {', '.join(twice)}")


def bundled_path(name: str) -> Path:
    """The file of a bundled picture in the installed scikit-image; a missing one is a :class:`UserError`."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise UserError(
            "dataroot_gt: bundled needs the package scikit-image; install it with: pip install scikit-image"
        )
    path = Path(spec.origin).parent / "data" / (COLOUR | GREY)[name]
    if not path.is_file():
        raise UserError(
            f"the installed scikit-image does not contain {path.name} (looked for {path}); choose another"
        )
    return path
