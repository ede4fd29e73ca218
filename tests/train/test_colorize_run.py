"""Runs of the colorize objective: they resume bit for bit, keep what is frozen, and are measured whole."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from atelier.colorize import load_system
from atelier.colorize.model_files import digest
from atelier.errors import RunStopped, UserError
from atelier.evaluate.films import ROWS, TRUTH
from atelier.files import sha256_of
from atelier.options.read import load_run_options
from atelier.train.distributed import Ranks
from atelier.train.run import train
from atelier.train.trainer import Trainer
from support import REPOSITORY, two_ranks

SHIPPED = sorted((REPOSITORY / "options" / "colorize").glob("*.yml"))
CPU = Ranks(0, 1, torch.device("cpu"))


def film_run(root: Path, **sections: Any) -> dict[str, Any]:
    """A colouring run of seconds."""
    run: dict[str, Any] = {
        "name": "films",
        "manual_seed": 3,
        "num_gpu": 0,
        "objective": "colorize",
        "network_g": {"type": "FusionSystem", "fusion": {"type": "unet", "width": 4}},
        "loss": {"l1": 1.0, "exemplar": 0.5, "temporal": 0.2},
        "datasets": {
            "train": {
                "type": "clips",
                "layout": "synthetic",
                "clip_length": 3,
                "short_side": 32,
                "batch_size_per_gpu": 2,
                "num_worker_per_gpu": 0,
            },
            "val": {"type": "clips", "layout": "synthetic", "clips": 2, "clip_length": 4, "short_side": 32},
        },
        "path": {"experiments_root": str(root)},
        "train": {"total_iter": 20, "optim_g": {"type": "AdamW", "lr": 2e-3}, "ema_decay": 0.9},
        "val": {"val_freq": 10},
        "logger": {"print_freq": 5, "save_checkpoint_freq": 10, "use_tb_logger": False},
    }
    for section, values in sections.items():
        if (
            section not in ("loss", "network_g")
            and isinstance(values, dict)
            and isinstance(run.get(section), dict)
        ):
            run[section] = {**run[section], **values}
        else:
            run[section] = values
    return run


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path, step: int) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(folder / "models" / f"net_g_{step}.pth", weights_only=True)
    return loaded


def assert_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    assert list(one) == list(other)
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty steps at one go."""
    return train(film_run(tmp_path_factory.mktemp("whole")), quiet=True).folder


def test_ten_and_ten_steps_are_twenty(whole: Path, tmp_path: Path) -> None:
    """Acceptance 10: bitwise, averages and logged numbers included."""
    options = film_run(tmp_path)
    first = {**options, "train": {**options["train"], "total_iter": 10}}
    train(first, quiet=True)
    folder = train(options, quiet=True, auto_resume=True, accept_changes=True).folder
    for key in ("params", "params_ema"):
        assert_same(weights(whole, 20)[key], weights(folder, 20)[key])

    def numbers(run: Path) -> list[Any]:
        return [
            (line["iter"], line["losses"], line["details"])
            for line in records(run)
            if line["kind"] == "train"
        ]

    assert numbers(whole)[-1] == numbers(folder)[-1]
    assert weights(whole, 10)["params"]["fusion.out.weight"].abs().sum() > 0
    # The test can fail: ten more steps do change the weights.
    assert not torch.equal(
        weights(whole, 10)["params"]["fusion.out.weight"], weights(whole, 20)["params"]["fusion.out.weight"]
    )


def test_terms_are_logged_weighted_and_raw(whole: Path) -> None:
    line = next(line for line in records(whole) if line["kind"] == "train")
    losses, raw = line["losses"], line["details"]
    assert list(losses) == ["l_g_l1", "l_g_exemplar", "l_g_temporal", "G_loss"]
    assert losses["G_loss"] == pytest.approx(sum(value for name, value in losses.items() if name != "G_loss"))
    assert losses["l_g_exemplar"] == pytest.approx(0.5 * raw["raw_exemplar"])
    assert losses["l_g_temporal"] == pytest.approx(0.2 * raw["raw_temporal"])


def test_validation_shows_five_modes_and_the_truth(whole: Path) -> None:
    tables = [line for line in records(whole) if line["kind"] == "rows"]
    assert [line["iter"] for line in tables] == [10, 20]
    rows = tables[-1]["rows"]
    assert list(rows) == [*ROWS, TRUTH]
    assert rows["grey"]["colourfulness"]["value"] < 0.2 and rows["grey"]["warp_error"]["value"] < 1e-6
    assert set(rows[TRUTH]) == {"colourfulness", "cdc", "warp_error"}
    assert rows["grey"]["psnr"]["protocol"] == "PSNR-RGB (crop 0)"
    # CDC never stands alone: each row has its distance to the truth's.
    for name in ROWS:
        off = abs(rows[name]["cdc"]["value"] - rows[TRUTH]["cdc"]["value"])
        assert rows[name]["cdc_off"]["value"] >= off - 1e-9
    validation = [line for line in records(whole) if line["kind"] == "validation"][-1]
    assert validation["metrics"]["psnr"]["value"] == rows["fused"]["psnr"]["value"] and validation["ema"]
    log = (whole / "train.log").read_text()
    for name in (*ROWS, TRUTH):
        assert re.search(rf"^\S+ \S+ {name} ", log, re.MULTILINE), name
    assert "best PSNR-RGB (crop 0) on val" in log
    assert (whole / "models" / "net_g_best.pth").exists()


def test_pictures_of_every_row_are_kept_and_the_report_shows_the_table(whole: Path) -> None:
    names = {path.name for path in (whole / "visualization").rglob("*.png")}
    for kind in ("lq", "gt", "exemplar", "flow", "average", "10", "20"):
        assert any(name.endswith(f"_{kind}.png") for name in names), kind
    report = (whole / "report.html").read_text()
    for name in (*ROWS, TRUTH):
        assert f'<th scope="row">{name}</th>' in report, name
    assert "better than average" in report or "worse than average" in report or "No difference" in report


def test_the_model_file_opens_as_what_was_validated(whole: Path) -> None:
    loaded = load_system(whole / "models" / "net_g_20.pth")
    state = loaded.system.state_dict()
    assert_same(weights(whole, 20)["params_ema"], state)


def test_a_run_can_begin_with_a_model_file(whole: Path, tmp_path: Path) -> None:
    path = {"experiments_root": str(tmp_path), "pretrain_network_g": str(whole / "models" / "net_g_20.pth")}
    options = load_run_options(film_run(tmp_path, path=path, train={"total_iter": 1, "optim_g": "AdamW"}))
    folder = train(options, quiet=True).folder
    assert "net_g_20.pth" in (folder / "train.log").read_text()


MEMFLOW = {
    "type": "FusionSystem",
    "flow": {"type": "memflow", "allow_random": True, "network": {"iterations": 1}},
    "fusion": {"type": "unet", "width": 4},
}


def twenty_steps(root: Path, network: Mapping[str, Any], look: Callable[[Any], Any]) -> tuple[Trainer, Any]:
    """A trainer after 20 steps with weight decay, and what ``look`` saw of its system before."""
    train_set = film_run(root)["datasets"]["train"] | {"clip_length": 2, "batch_size_per_gpu": 1}
    options = load_run_options(
        film_run(
            root,
            network_g=network,
            datasets={"train": train_set},
            train={
                "total_iter": 20,
                "optim_g": {"type": "AdamW", "lr": 1e-2, "weight_decay": 0.1},
                "ema_decay": 0.9,
            },
        )
    )
    trainer = Trainer(options, CPU)
    before = look(trainer.nets["g"])
    data = options.datasets.train.open(
        scale=1, degradation=options.effective_degradation, seed=0, global_batch=1, in_channels=1
    )
    trainer.nets["g"].train()
    for batch in data.batches(1, 20):
        trainer.step(batch)
    return trainer, before


def test_frozen_parts_stay_bit_for_bit(tmp_path: Path) -> None:
    """Acceptance 11, with weight decay: parameters and buffers of the flow, and no optimiser holds one."""
    trainer, before = twenty_steps(tmp_path, MEMFLOW, lambda system: digest(system.flow))
    system: Any = trainer.nets["g"]
    held = {id(each) for group in trainer.optimizers["g"].param_groups for each in group["params"]}
    assert not held & {id(each) for each in system.flow.parameters()}
    assert held == {id(each) for each in system.parameters() if each.requires_grad}
    assert list(system.flow.buffers()) and digest(system.flow) == before
    assert trainer.ema is not None
    average: Any = trainer.ema.net
    assert digest(average.flow) == before
    trainer.objective.verify()
    with torch.no_grad():
        next(system.flow.buffers()).add_(1)
    with pytest.raises(RunStopped, match="flow should have stayed frozen"):
        trainer.objective.verify()


def tensors_of(system: Any) -> dict[str, str]:
    """SHA-256 of every parameter and buffer, also of those that no state dict holds."""
    return {
        name: hashlib.sha256(each.detach().contiguous().numpy().tobytes()).hexdigest()
        for name, each in (*system.named_parameters(), *system.named_buffers())
    }


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [True, False])
def test_a_frozen_swintexco_stays_bit_for_bit(tmp_path: Path, freeze: bool) -> None:
    """Acceptance 11: the backbone never learns, the matching network only where it is not frozen."""
    network = {
        "type": "FusionSystem",
        "exemplar": {"type": "swintexco", "allow_random_backbone": True, "freeze": freeze},
        "fusion": {"type": "unet", "width": 4},
        "save_frozen": True,
    }
    trainer, before = twenty_steps(tmp_path, network, tensors_of)
    system: Any = trainer.nets["g"]
    after = tensors_of(system)
    moved = {name for name in before if after[name] != before[name]}
    parts = ("exemplar.embed_net.", "exemplar.nonlocal_net.")
    still = parts if freeze else parts[:1]
    for part in parts:
        assert any(name.startswith(part) for name in before), part
        assert any(name.startswith(part) for name in moved) == (part not in still), part
    assert any(name.startswith("fusion.") for name in moved)
    assert any(name.startswith(parts[0]) for name, _ in system.named_buffers()), "nothing tells of buffers"
    held = {id(each) for group in trainer.optimizers["g"].param_groups for each in group["params"]}
    assert held == {id(each) for name, each in system.named_parameters() if not name.startswith(still)}
    assert not any(each.training for name, each in system.named_modules() if f"{name}.".startswith(still))
    trainer.objective.verify()


def test_a_bad_batch_stops_the_run_before_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acceptance 8: the run names term, step and samples, and its last files are those from before."""
    real = Trainer.step
    seen: list[Any] = []

    def poisoned(self: Trainer, batch: Any) -> None:
        seen.append(batch)
        if len(seen) == 7:
            batch.ab[1, 0, 0, 0, 0] = float("nan")
        real(self, batch)

    monkeypatch.setattr(Trainer, "step", poisoned)
    options = film_run(
        tmp_path, logger={"print_freq": 100, "save_checkpoint_freq": 5, "use_tb_logger": False}
    )
    with pytest.raises(RunStopped) as stopped:
        train(options, quiet=True)
    told = str(stopped.value)
    assert "step 7: l_g_l1" in told and "not finite" in told
    assert all(sample in told for sample in seen[6].samples), told
    folder = tmp_path / "films"
    kept = {path.stem for path in (folder / "models").glob("net_g_*.pth")}
    assert kept == {"net_g_5", "net_g_latest"}
    assert sha256_of(folder / "models" / "net_g_latest.pth") == sha256_of(folder / "models" / "net_g_5.pth")
    assert [path.name for path in (folder / "training_states").glob("*.state")] == ["5.state"]
    for key in ("params", "params_ema"):
        assert all(bool(value.isfinite().all()) for value in weights(folder, 5)[key].values())


def test_files_of_a_run_leave_frozen_parts_out_and_resume(tmp_path: Path) -> None:
    train_set = film_run(tmp_path)["datasets"]["train"] | {"clip_length": 2, "batch_size_per_gpu": 1}
    for kind in ("pth", "safetensors"):
        options = film_run(
            tmp_path / kind,
            network_g=MEMFLOW,
            datasets={"train": train_set},
            train={"total_iter": 2, "optim_g": "AdamW", "ema_decay": 0.9},
            logger={"save_checkpoint_freq": 1, "use_tb_logger": False},
            checkpoint_format=kind,
        )
        del options["datasets"]["val"]
        folder = train(options, quiet=True).folder
        assert all(path.stat().st_size < 3e6 for path in folder.rglob(f"*.{kind}"))
        assert all(path.stat().st_size < 3e6 for path in folder.rglob("*.state"))
        more = {**options, "train": {**options["train"], "total_iter": 3}}
        train(more, quiet=True, auto_resume=True, accept_changes=True)
        assert (folder / "models" / f"net_g_3.{kind}").exists()


def test_debug_goes_through_every_part(tmp_path: Path) -> None:
    from atelier.train.debug import debug_run

    assert "resumes" in debug_run(load_run_options(film_run(tmp_path)))


def test_a_resolved_option_file_can_be_read_again(whole: Path) -> None:
    assert load_run_options(whole / "options.yml").objective.type == "colorize"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_are_valid_and_name_what_is_absent(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from atelier.options.absent import absent_data, absent_weights

    monkeypatch.setattr("atelier.archs.swintexco_backbone._cached", lambda: None)
    options = load_run_options(path)
    assert options.objective.type == "colorize"
    absent = [*absent_data(options), *absent_weights(options)]
    keys = {line.split(":")[0] for line in absent}
    wanted: dict[str, set[str]] = {
        "tiny": set(),
        "fusion_finetune": {"network_g.flow.weights", "network_g.exemplar.checkpoint"},
        "fusion_scratch": {"network_g.flow.weights", "network_g.exemplar.backbone_weights"},
    }
    assert {key for key in keys if key.startswith("network_g")} == wanted[path.stem]
    monkeypatch.setattr("atelier.archs.swintexco_backbone._cached", lambda: path)
    assert not any("backbone" in line for line in absent_weights(options))


def test_there_are_three_shipped_files() -> None:
    assert [path.stem for path in SHIPPED] == ["fusion_finetune", "fusion_scratch", "tiny"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"objective": "pixel", "loss": None},
            "colours films.*objective pixel cannot train.*atelier colorize",
        ),
        ({"objective": "gan", "loss": None}, "objective gan cannot train"),
        ({"network_g": {"type": "SRVGGNetCompact", "upscale": 1}}, "trains network_g.*not SRVGGNetCompact"),
        ({"objective": {"type": "colorize", "mode": "average"}}, "does not use the fusion network"),
        ({"objective": {"type": "colorize", "loss": {"l1": 1}}}, "say the same thing"),
        ({"loss": {"l1": 0}}, "no term acts"),
        ({"loss": {"l1": -1}}, r"loss\.l1"),
        ({"loss": {"l2": 1}}, "l2: unknown key"),
        ({"train": {"pixel_opt": "L1Loss"}}, "pixel_opt does nothing with objective colorize"),
        ({"loss": {"l1": 1, "gan": 0.5}}, "give network_d.*ColourDiscriminatorSN"),
        ({"network_d": "ColourDiscriminatorSN"}, r"has no discriminator; set loss\.gan"),
        (
            {"network_d": "ColourDiscriminatorSN", "loss": {"l1": 1, "gan": 0.5}},
            r"datasets\.train\.crop 32 is too",
        ),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "run.yml"
    path.write_text(json.dumps(film_run(tmp_path, **changes)))
    with pytest.raises(UserError, match=message):
        load_run_options(path)


def test_pictures_are_no_clips(tmp_path: Path) -> None:
    options = film_run(tmp_path)
    options["datasets"]["val"] = {"dataroot_gt": "bundled"}
    with pytest.raises(UserError, match=r"objective colorize needs datasets\.val\.type: clips, given images"):
        load_run_options(options)


@pytest.mark.slow
def test_two_ranks_are_one_process(tmp_path: Path) -> None:
    """Acceptance 16: with scheduled sampling, whose draws belong to samples and not to ranks.

    SGD, because Adam turns the rounding noise of a gradient that is zero (a bias before centring) into whole steps.
    """
    changes = {
        "objective": {"type": "colorize", "scheduled_sampling": 0.5},
        "train": {"total_iter": 8, "optim_g": {"type": "SGD", "lr": 0.5, "momentum": 0.9}, "ema_decay": 0.5},
    }
    path = tmp_path / "run.yml"
    options = film_run(tmp_path / "two", **changes)
    options["datasets"]["train"]["batch_size_per_gpu"] = 1
    path.write_text(json.dumps(options))
    codes, output = two_ranks(path)
    assert codes == [0, 0], output
    # One sample at a time, as each rank has it: a convolution of two rounds otherwise.
    changes["train"]["accumulate"] = 2
    one = train(film_run(tmp_path / "one", **changes), quiet=True).folder
    two = tmp_path / "two" / "films"
    start = (
        load_run_options(film_run(tmp_path, **changes)).network_g.build().state_dict()["fusion.out.weight"]
    )
    for key in ("params", "params_ema"):
        left, right = weights(one, 8)[key], weights(two, 8)[key]
        worst = max(float((left[name] - right[name]).abs().max()) for name in left)
        assert worst < 2e-6 < 1e-3 < float((left["fusion.out.weight"] - start).abs().max())

    def table(run: Path) -> Any:
        return next(line for line in records(run) if line["kind"] == "rows")["rows"]

    for row in (*ROWS, TRUTH):
        for name, mean in table(one)[row].items():
            assert table(two)[row][name]["value"] == pytest.approx(mean["value"], rel=1e-3, abs=1e-3)
