"""The tiny recipe learns: fused colours beat their average and the exemplar's on a photograph never seen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from atelier.colorize import FusionSystem
from atelier.data.clip_options import ValClipsOptions
from atelier.evaluate.films import TRUTH
from atelier.metrics.options import METRICS
from atelier.options.read import load_run_options
from atelier.train.distributed import Ranks
from atelier.train.trainer import Trainer
from atelier.train.validating_clips import measure_clip
from support import REPOSITORY

RECIPE = REPOSITORY / "options" / "colorize" / "tiny.yml"
MODES = ("grey", "exemplar", "average", "fused")


def test_sixty_steps_of_the_recipe_are_enough_to_see_it(tmp_path: Path) -> None:
    """Acceptance 6 and 7 at a reduced size: an eighth of the steps, one clip of 12 frames."""
    changes = ["train.total_iter=60", "train.scheduler.periods=[60]", "datasets.train.num_worker_per_gpu=0"]
    options = load_run_options(RECIPE, [*changes, f"path.experiments_root={tmp_path}"])
    held = options.datasets.validation["val"]
    assert isinstance(held, ValClipsOptions) and held.pictures is None
    film = held.model_copy(update={"clips": 1, "clip_length": 12}).open()[0]
    psnr = {"psnr": METRICS.options_class("psnr")(type="psnr").build(0, 3)}
    trainer = Trainer(options, Ranks(0, 1, torch.device("cpu")))
    data = options.datasets.train.open(
        scale=1, degradation=options.effective_degradation, seed=0, global_batch=2, in_channels=1, quiet=True
    )
    trainer.objective.join(data)
    for batch in data.batches(1, 60):
        trainer.step(batch)
    trainer.health.verdict()
    net, averaged = trainer.evaluation_net()
    assert averaged and isinstance(net, FusionSystem)
    rows, _ = measure_clip(net, film, MODES, psnr)
    got = {row: rows[row].get("psnr", 0.0) for row in rows}
    assert got["fused"] >= got["average"] + 0.15
    assert got["fused"] >= got["exemplar"] + 0.4
    assert got["fused"] >= got["grey"] + 6
    assert 0.6 <= rows["fused"]["colourfulness"] / rows[TRUTH]["colourfulness"] <= 1.2
    assert rows["fused"]["warp_error"] <= 0.7 * rows["exemplar"]["warp_error"]
    # What these numbers are worth: before training, fused is the average.
    untrained = options.network_g.build().eval()
    assert isinstance(untrained, FusionSystem)
    before, _ = measure_clip(untrained, film, ("average", "fused"), psnr)
    assert before["fused"]["psnr"] == pytest.approx(before["average"]["psnr"], abs=1e-3)


@pytest.mark.slow
def test_the_recipe_keeps_its_promise_for_three_seeds() -> None:
    """Acceptance 6 and 7; the benchmark prints the table and fails where a claim does not hold."""
    ended = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / "colorize_tiny.py"), "--wide", "0"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
