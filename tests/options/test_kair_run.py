"""A KAIR file trains, as long as it says: data, steps, validation, checkpoint and report on bundled photographs."""

from __future__ import annotations

from pathlib import Path

from atelier.options.kair import convert
from atelier.options.read import load_run_options
from atelier.options.source import OptionFile
from options.kair_files import as_kair_writes, changed


def test_a_dncnn_file_trains_as_it_is(tmp_path: Path) -> None:
    from atelier.train.debug import debug_run

    path = tmp_path / "train_dncnn.json"
    data = changed(
        "dncnn",
        gpu_ids=[],
        dist=False,
        path__root=str(tmp_path / "denoising"),
        datasets__train__dataroot_H="bundled",
        datasets__train__dataloader_batch_size=2,
        datasets__train__dataloader_num_workers=0,
        datasets__test__dataroot_H="bundled",
        netG__nc=8,
        netG__nb=3,
    )
    path.write_text(as_kair_writes(data))
    overrides = ["datasets.train.pictures=[camera]", "datasets.val.pictures=[coins]"]
    text = debug_run(load_run_options(path, overrides))
    assert "resumes" in text
    log = next((tmp_path / "denoising").glob("*dncnn25/train.log")).read_text()
    assert "G_loss: " in log
    assert "manual_seed is left out" in log


def test_steps_written_as_powers_of_ten() -> None:
    data = changed("classical", train__G_scheduler_milestones=[1e4, 2.5e5])
    options = load_run_options(convert(OptionFile("", data))[0].data)
    assert options.train.total_iter == 250_000
    assert options.train.scheduler.milestones == [10_000, 250_000]
    restarts = {"train__G_scheduler_type": "CosineAnnealingWarmRestarts"}
    data = changed("classical", **restarts, train__G_scheduler_periods=[1e4, 20000])
    options = load_run_options(convert(OptionFile("", data))[0].data)
    assert options.train.total_iter == 30_000
    assert options.train.scheduler.periods == [10_000, 20_000]
