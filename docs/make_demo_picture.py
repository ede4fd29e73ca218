"""Draw docs/demo.png from a finished ``atelier demo``: one crop as bicubic, as the trained network, as it was."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont


def main() -> None:
    """Read the arguments and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?", default=Path("experiments/demo"))
    parser.add_argument("--image", default="astronaut")
    parser.add_argument("--box", type=int, nargs=4, default=(150, 20, 310, 140), metavar=("L", "T", "R", "B"))
    parser.add_argument("--zoom", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/demo.png"))
    arguments = parser.parse_args()
    folder = arguments.run / "visualization" / arguments.image
    steps = [path.stem.rsplit("_", 1)[1] for path in folder.glob(f"{arguments.image}_*.png")]
    last = max(int(step) for step in steps if step.isdigit())
    columns = [("bicubic", "bicubic"), (str(last), "demo network"), ("gt", "original")]
    left, top, right, bottom = arguments.box
    width, height = (right - left) * arguments.zoom, (bottom - top) * arguments.zoom
    sheet = Image.new("RGB", (3 * width + 16, height + 30), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (kind, label) in enumerate(columns):
        with Image.open(folder / f"{arguments.image}_{kind}.png") as picture:
            crop = picture.convert("RGB").crop(tuple(arguments.box))
        x = index * (width + 8)
        sheet.paste(crop.resize((width, height), Image.Resampling.NEAREST), (x, 0))
        draw.text((x + 4, height + 6), label, fill="black", font=ImageFont.load_default(16))
    sheet.save(arguments.output, optimize=True)


if __name__ == "__main__":
    main()
