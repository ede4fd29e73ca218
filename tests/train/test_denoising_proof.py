"""A small grey denoiser learns: the proof that task, noise, training and measuring fit together."""

from __future__ import annotations

from pathlib import Path

import pytest

from atelier.evaluate.run_record import read_run
from atelier.train.run import train
from support import REPOSITORY


@pytest.mark.slow
def test_a_small_grey_denoiser_gains_four_decibels_over_its_input(tmp_path: Path) -> None:
    """The shipped template with 24 channels, sigma 25, 64 pixels: 100 steps, within two minutes on two cores."""
    result = train(
        REPOSITORY / "options" / "swinir" / "denoise_grey.yml",
        [
            f"path.experiments_root={tmp_path}",
            "num_gpu=0",
            "network_g.embed_dim=24",
            "network_g.depths=[2, 2]",
            "network_g.num_heads=[2, 2]",
            "datasets.train.gt_size=64",
            "datasets.train.batch_size_per_gpu=4",
            "datasets.train.num_worker_per_gpu=0",
            "datasets.val.pictures=[chelsea]",
            "cache.enabled=false",
            "train.total_iter=100",
            "train.optim_g.lr=2e-3",
            "train.scheduler.milestones=[70, 90]",
            "train.ema_decay=0.98",
            "val.val_freq=100",
            "val.save_img=false",
            "logger.use_tb_logger=false",
        ],
        quiet=True,
    )
    record = read_run(result.folder)
    noisy = record.baselines["val"].metrics["psnr"].value
    assert noisy == pytest.approx(20.17, abs=0.1)  # 20 log10(255 / 25); measuring clips
    assert result.metrics["val"]["psnr"] >= noisy + 4
