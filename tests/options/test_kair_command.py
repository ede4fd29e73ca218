"""``atelier options convert``."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from atelier.cli.options import app
from atelier.errors import UserError
from atelier.options.read import load_run_options
from options.kair_files import as_kair_writes, changed

runner = CliRunner()


@pytest.fixture
def kair_file(tmp_path: Path) -> Path:
    path = tmp_path / "grey.json"
    path.write_text(as_kair_writes(changed("grey_dn", gpu_ids=[0], dist=False)))
    return path


def test_prints_a_short_yaml_and_tells_the_rest(kair_file: Path) -> None:
    result = runner.invoke(app, ["convert", str(kair_file), "train.total_iter=7", "num_gpu=0"])
    assert result.exit_code == 0
    assert result.stdout == (
        "# Converted from KAIR's grey.json.\n"
        "name: swinir_denoising_gray_15\n"
        "scale: 1\n"
        "num_gpu: 0\n"
        "degradation:\n"
        "  type: gaussian_noise\n"
        "  sigma: 15\n"
        "datasets:\n"
        "  train:\n"
        "    name: train_dataset\n"
        "    dataroot_gt: trainsets/trainH\n"
        "    convert_channels: true\n"
        "    gt_size: 128\n"
        "    batch_size_per_gpu: 8\n"
        "    num_worker_per_gpu: 16\n"
        "  val:\n"
        "    name: test_dataset\n"
        "    dataroot_gt: testsets/Set5/HR\n"
        "    convert_channels: true\n"
        "    degradation:\n"
        "      type: gaussian_noise\n"
        "      sigma: 15\n"
        "      noise_seed: 0\n"
        "network_g:\n"
        "  type: SwinIR\n"
        "  upscale: 1\n"
        "  in_chans: 1\n"
        "  img_size: 128\n"
        "  window_size: 8\n"
        "  img_range: 1.0\n"
        "  depths: [6, 6, 6, 6, 6, 6]\n"
        "  embed_dim: 180\n"
        "  num_heads: [6, 6, 6, 6, 6, 6]\n"
        "  mlp_ratio: 2\n"
        "  resi_connection: 1conv\n"
        "path:\n"
        "  experiments_root: denoising\n"
        "  resume: auto\n"
        "train:\n"
        "  pixel_opt:\n"
        "    type: CharbonnierLoss\n"
        "    eps: 1.0e-9\n"
        "  optim_g:\n"
        "    type: Adam\n"
        "    lr: 0.0002\n"
        "  scheduler:\n"
        "    type: MultiStepLR\n"
        "    milestones: [800000, 1200000, 1400000, 1500000, 1600000]\n"
        "    gamma: 0.5\n"
        "  total_iter: 7\n"
        "val:\n"
        "  measure: both\n"
        "  metrics:\n"
        "    psnr:\n"
        "      type: calculate_psnr\n"
        "      crop_border: 1\n"
        "    psnr_border0:\n"
        "      type: calculate_psnr\n"
        "      crop_border: 0\n"
        "logger:\n"
        "  print_freq: 200\n"
        "  log_format: kair\n"
    )
    assert "grey.json:4: gpu_ids: which GPUs are used is set outside" in result.stderr
    assert "manual_seed is left out" in result.stderr


def test_writes_a_file_that_is_ours(kair_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "grey.yml"
    output.parent.mkdir()
    result = runner.invoke(app, ["convert", str(kair_file), "-o", str(output)])
    assert f"wrote {output}" in result.stdout
    assert load_run_options(output).model_dump() == load_run_options(kair_file).model_dump()
    again = runner.invoke(app, ["convert", str(output)])
    assert isinstance(again.exception, UserError)
    assert "one of ours" in str(again.exception)


def test_what_cannot_be_converted(kair_file: Path, tmp_path: Path) -> None:
    basicsr = tmp_path / "basicsr.yml"
    basicsr.write_text("name: x\nmodel_type: SRModel\nnetwork_g: {type: RRDBNet}\n")
    for words, message in (
        (["convert", str(basicsr)], f"{basicsr}:1: datasets: train is missing"),
        (["convert", str(kair_file), str(kair_file)], "takes one file, given 2"),
        (["convert", str(kair_file), "netG.embed_dim=60"], "command line: netG: unknown key"),
    ):
        result = runner.invoke(app, words)
        assert message in str(result.exception)


def test_check_reads_a_kair_file(kair_file: Path) -> None:
    result = runner.invoke(app, ["check", str(kair_file)])
    assert result.exit_code == 0
    assert f"{kair_file}: OK" in result.stdout
    assert "warning: " in result.stdout
