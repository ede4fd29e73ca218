"""``atelier data preview`` of clips: the pictures on the sheet are those of the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from skimage.color import rgb2lab
from typer.testing import CliRunner

from atelier.cli import data as commands
from atelier.data.clip_options import TrainClipsOptions
from atelier.degrade.base import DEGRADATIONS
from atelier.images.files import read_image
from support import REPOSITORY

SIZE, GAP, BETWEEN = 32, 8, 4


def test_the_sheet_shows_references_frames_and_their_lightness(tmp_path: Path) -> None:
    given = [
        "datasets.train.short_side=32",
        "datasets.train.clip_length=3",
        "datasets.train.batch_size_per_gpu=2",
    ]
    words = [
        "preview",
        "-opt",
        str(REPOSITORY / "options" / "colorize" / "tiny.yml"),
        *given,
        "manual_seed=5",
    ]
    sheet = tmp_path / "clips.png"
    told = CliRunner().invoke(
        commands.app, [*words, "-o", str(sheet), "--step", "3", "--steps", "2"], catch_exceptions=False
    )
    assert told.exit_code == 0 and f"4 clips of step 3 to 4: {sheet}" in told.output.replace("\n", "")
    from atelier.options.read import load_run_options

    options = load_run_options(REPOSITORY / "options" / "colorize" / "tiny.yml", [*given, "manual_seed=5"])
    assert isinstance(options.datasets.train, TrainClipsOptions)
    data = options.datasets.train.open(
        scale=1,
        degradation=DEGRADATIONS.options_class("bicubic")(type="bicubic"),
        seed=5,
        global_batch=2,
        in_channels=1,
        quiet=True,
    )
    (batch,) = data.batches(3, 3)
    data.close()
    references = batch.reference.shape[1]
    pixels = read_image(sheet).pixels

    def cell(down: int, across: int) -> np.ndarray:
        """Of the first clip, which is in the sheet's first corner."""
        left = GAP + across * SIZE + (BETWEEN if across >= references else 0)
        return pixels[GAP + down * SIZE : GAP + (down + 1) * SIZE, left : left + SIZE]

    rows = [*batch.reference[0], *batch.lab[0]]
    for across, lab in enumerate(rows):
        expected = lab.numpy().transpose(1, 2, 0) * (50, 127, 127) + (50, 0, 0)
        assert np.abs(rgb2lab(cell(0, across)) - expected).mean() < 1, across
    for t in range(3):
        grey = cell(1, references + t).astype(int)
        assert np.ptp(grey, axis=2).max() <= 1
        assert np.abs(rgb2lab(grey.astype(np.uint8))[..., 0] - (batch.L[0, t, 0].numpy() * 50 + 50)).max() < 1
    # The test can fail: clips and frames differ.
    assert not np.array_equal(cell(0, references), cell(0, references + 1))
