"""Runs with a discriminator: exact resume of everything, inactive generators, ranks, starts, option errors."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from atelier.errors import RunStopped, UserError
from atelier.options.read import load_run_options
from atelier.train.distributed import Ranks
from atelier.train.meters import Meters
from atelier.train.run import train
from support import small_run, two_ranks
from train.test_ddp import TOLERANCE
from train.test_run import assert_same, records, stop_at, weights

PERCEPTUAL = {
    "type": "PerceptualLoss",
    "layer_weights": {"conv1_2": 0.1},
    "vgg_weights": "random",
    "style_weight": 1.0,
}


def gan_run(root: Path, objective: dict[str, Any] | None = None, **train_keys: Any) -> dict[str, Any]:
    """A run of eight steps: tiny Compact, a discriminator of 8 channels, all kinds of terms."""
    run = small_run(root)
    run["objective"] = {"type": "gan", **(objective or {})}
    run["network_d"] = {"type": "UNetDiscriminatorSN", "num_feat": 8}
    run["train"] |= {
        "optim_d": {"type": "Adam", "lr": 5e-4, "betas": [0.9, 0.99]},
        "pixel_opt": {"type": "L1Loss"},
        "perceptual_opt": PERCEPTUAL,
        "gan_opt": {"type": "GANLoss", "loss_weight": 0.1},
        **train_keys,
    }
    return run


def plain(root: Path, **keys: Any) -> dict[str, Any]:
    """The same without the perceptual term, where it does not matter."""
    return gan_run(root, perceptual_opt=None, **keys)


def discriminator(folder: Path, iteration: int) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(
        folder / "models" / f"net_d_{iteration}.pth", weights_only=True
    )["params"]
    return state


def state_of(folder: Path, iteration: int) -> dict[str, Any]:
    state = torch.load(folder / "training_states" / f"{iteration}.state", weights_only=True)
    state.pop("past")
    return state


def assert_same_gan_run(left: Path, right: Path) -> None:
    a, b = weights(left, 8), weights(right, 8)
    assert_same(a["params"], b["params"], "params")
    assert_same(a["params_ema"], b["params_ema"], "params_ema")
    assert_same(discriminator(left, 8), discriminator(right, 8), "net_d")
    assert_same(state_of(left, 8), state_of(right, 8), "state")
    assert records(left) == records(right)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(gan_run(tmp_path_factory.mktemp("whole"), {"l1_gt_usm": True}), quiet=True).folder


def test_what_a_run_leaves(uninterrupted: Path) -> None:
    names = {path.name for path in (uninterrupted / "models").iterdir()}
    assert {"net_g_8.pth", "net_d_4.pth", "net_d_8.pth", "net_d_latest.pth", "net_g_best.pth"} <= names
    assert "net_d_best.pth" not in names
    file = torch.load(uninterrupted / "models/net_d_8.pth", weights_only=True)
    assert file["arch"] == "UNetDiscriminatorSN" and "params_ema" not in file
    assert "conv1.weight_u" in file["params"]
    logged = [record["losses"] for record in records(uninterrupted) if record["kind"] == "train"]
    expected = [
        "l_g_pix",
        "l_g_percep",
        "l_g_style",
        "l_g_gan",
        "l_d_real",
        "out_d_real",
        "l_d_fake",
        "out_d_fake",
    ]
    assert [list(each) for each in logged] == [expected] * 3
    report = (uninterrupted / "report.html").read_text()
    assert all(name in report for name in expected)


def test_both_optimisers_are_in_the_state(uninterrupted: Path) -> None:
    state = state_of(uninterrupted, 8)
    assert state["roles"] == ["g", "d"]
    assert len(state["optimizers"]) == 2
    assert all(int(each["state"][0]["step"]) == 8 for each in state["optimizers"])
    assert [each["param_groups"][0]["lr"] for each in state["optimizers"]] == [1e-3, 5e-4]
    assert state["parameters"]["d"][:3] == ["conv0.weight", "conv0.bias", "conv1.weight_orig"]


@pytest.mark.parametrize("step", [2, 5])
def test_resume_is_bit_identical(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    from atelier.train.trainer import Trainer

    options = gan_run(tmp_path, {"l1_gt_usm": True})
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stop_at(step))
        assert train(options, quiet=True).iteration == step
    assert_same_gan_run(train(options, quiet=True, auto_resume=True).folder, uninterrupted)


@pytest.mark.parametrize("forgotten", ["vectors", "discriminator"])
def test_the_resume_test_has_teeth(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    import atelier.train.trainer as module

    options = gan_run(tmp_path, {"l1_gt_usm": True})
    with monkeypatch.context() as patch:
        patch.setattr(module.Trainer, "step", stop_at(5))
        train(options, quiet=True)
    real = module.load_state

    def load(net: Any, file: Any, *args: Any, **keys: Any) -> Any:
        kept = {key: value.clone() for key, value in net.state_dict().items()}
        report = real(net, file, *args, **keys)
        if "conv1.weight_u" in kept:
            for key, value in net.state_dict().items():
                if forgotten == "discriminator" or key.endswith(("_u", "_v")):
                    value.copy_(kept[key])
        return report

    monkeypatch.setattr(module, "load_state", load)
    folder = train(options, quiet=True, auto_resume=True).folder
    with pytest.raises(AssertionError):
        assert_same_gan_run(folder, uninterrupted)


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"accumulate": 2}},
        {"checkpoint_format": "safetensors"},
        {"objective": {"net_d_iters": 3}},
        {"train": {"ldl_opt": {"type": "L1Loss"}}, "objective": {"r1_reg_weight": 1, "net_d_reg_every": 3}},
    ],
    ids=["accumulate", "safetensors", "net_d_iters", "ldl_and_r1"],
)
def test_resume_is_exact_with_other_settings(tmp_path: Path, changes: dict[str, Any]) -> None:
    runs = []
    for name, first in (("whole", 8), ("half", 4)):
        options = plain(tmp_path)
        options["datasets"].pop("val")
        for key, value in changes.items():
            options[key] = {**options[key], **value} if isinstance(value, dict) else value
        options["name"] = name
        train(options, [f"train.total_iter={first}"], quiet=True)
        runs.append(train(options, quiet=True, auto_resume=True).folder)
    assert_same(*(state_of(run, 8) for run in runs))
    if "checkpoint_format" not in changes:
        assert_same(*(discriminator(run, 8) for run in runs))


def test_the_generator_stands_still_while_the_discriminator_begins(tmp_path: Path) -> None:
    options = plain(tmp_path, objective={"net_d_init_iters": 3})
    options["logger"] |= {"save_checkpoint_freq": 1, "print_freq": 4}
    folder = train(options, ["train.total_iter=4", "train.ema_decay=0.5"], quiet=True).folder
    saved = [weights(folder, step) for step in range(1, 5)]
    for each in saved[1:3]:
        assert_same(each["params"], saved[0]["params"])
    assert not torch.equal(saved[3]["params"]["body.0.weight"], saved[0]["params"]["body.0.weight"])
    # The average is made in every step; it equals weights that stand still, and follows when they move.
    for each in saved[:3]:
        assert_same(each["params"], each["params_ema"])
    mean = (saved[3]["params"]["body.0.weight"] + saved[0]["params"]["body.0.weight"]) / 2
    torch.testing.assert_close(saved[3]["params_ema"]["body.0.weight"], mean)
    judges = [discriminator(folder, step)["conv1.weight_orig"] for step in range(1, 5)]
    assert not any(torch.equal(a, b) for a, b in pairwise(judges))
    assert int(state_of(folder, 4)["optimizers"][0]["state"][0]["step"]) == 1
    assert "l_g_pix" in records(folder)[1]["losses"]


def test_means_are_over_the_steps_that_have_the_value() -> None:
    device = torch.device("cpu")
    meters = Meters(device)
    meters.add({"l_d_real": torch.tensor(1.0)})
    resumed = Meters(device)
    resumed.load_state_dict(meters.state_dict())
    resumed.add({"l_d_real": torch.tensor(2.0), "l_g_pix": torch.tensor(5.0)})
    assert resumed.means(Ranks(0, 1, device)) == {"l_d_real": 1.5, "l_g_pix": 5.0}
    older = Meters(device)
    older.load_state_dict({"sums": {"a": torch.tensor(6.0, dtype=torch.float64)}, "count": 3})
    assert older.means(Ranks(0, 1, device)) == {"a": 2.0}


def test_accumulated_micro_batches_equal_the_whole_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the spectral vectors, which move once a pass: the kernels are left as they are here."""
    from atelier.archs.spectral_norm import SpectralConv2d

    monkeypatch.setattr(SpectralConv2d, "normalised_weight", lambda self: self.weight_orig)
    results = []
    for parts in (1, 2):
        options = plain(tmp_path, accumulate=parts, optim_g={"type": "SGD", "lr": 0.1})
        options["train"] |= {"optim_d": {"type": "SGD", "lr": 0.1}, "total_iter": 4}
        options["name"] = f"in_{parts}"
        options["datasets"].pop("val")
        folder = train(options, quiet=True).folder
        results.append((weights(folder, 4)["params"], discriminator(folder, 4)))
    for one, two in zip(*results, strict=True):
        for key in one:
            torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-6)


def test_two_ranks_equal_one_and_keep_equal_vectors(tmp_path: Path) -> None:
    (tmp_path / "ranks_report.py").write_text(
        "import os, pathlib, torch\n"
        "from atelier.train.trainer import Trainer\n"
        "real = Trainer.step\n"
        "def step(self, batch):\n"
        "    real(self, batch)\n"
        f"    torch.save(self.nets['d'].state_dict(), pathlib.Path({str(tmp_path)!r}) / "
        "f'd_{self.iteration}_{self.ranks.rank}.pth')\n"
        "Trainer.step = step\n"
    )
    path = tmp_path / "run.yml"
    terms = {"objective": {"r1_reg_weight": 0.1, "net_d_reg_every": 2}, "ldl_opt": {"type": "L1Loss"}}
    options = {**plain(tmp_path / "two", **terms), "plugins": ["ranks_report"]}
    options["datasets"]["train"]["batch_size_per_gpu"] = 2
    options["datasets"].pop("val")
    path.write_text(json.dumps(options))
    codes, output = two_ranks(path)
    assert codes == [0, 0], output
    for step in range(1, 9):
        assert_same(*(torch.load(tmp_path / f"d_{step}_{rank}.pth", weights_only=True) for rank in (0, 1)))
    one_options = plain(tmp_path / "one", **terms)
    one_options["datasets"].pop("val")
    one = train(one_options, quiet=True).folder
    two = tmp_path / "two" / "small"
    pairs = [(weights(one, 8)[key], weights(two, 8)[key]) for key in ("params", "params_ema")]
    pairs.append((discriminator(one, 8), discriminator(two, 8)))
    for left, right in pairs:
        assert max(float((left[name] - right[name]).abs().max()) for name in left) < TOLERANCE


def test_a_discriminators_loss_that_is_not_finite_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atelier.losses.gan import GANLoss

    real, calls = GANLoss.fake, []

    def broken(self: GANLoss, logits: torch.Tensor, against: Any = None) -> torch.Tensor:
        calls.append(1)
        return real(self, logits, against) * (float("nan") if len(calls) == 6 else 1.0)

    monkeypatch.setattr(GANLoss, "fake", broken)
    with pytest.raises(RunStopped, match=r"step 6: l_d_fake, the gradient of net_d not finite"):
        train(plain(tmp_path), quiet=True)
    assert not (tmp_path / "small/models/net_d_8.pth").exists()
    assert all(bool(value.isfinite().all()) for value in discriminator(tmp_path / "small", 4).values())


class TestStarts:
    @pytest.mark.parametrize("optimizer", ["SGD", "AdamWScheduleFree"])
    def test_both_networks_start_from_files(
        self, uninterrupted: Path, tmp_path: Path, optimizer: str
    ) -> None:
        models = uninterrupted / "models"
        options = plain(tmp_path)
        options["path"] |= {
            "pretrain_network_g": str(models / "net_g_8.pth"),
            "pretrain_network_d": str(models / "net_d_8.pth"),
            "param_key_g": "params",
        }
        zero = {"type": optimizer, "lr": 1e-30}
        options["train"] |= {"optim_g": zero, "optim_d": zero, "total_iter": 1, "ema_decay": 0}
        folder = train(options, quiet=True).folder
        assert_same(weights(folder, 1)["params"], weights(uninterrupted, 8)["params"])
        start, end = discriminator(uninterrupted, 8), discriminator(folder, 1)
        assert all(torch.equal(start[key], end[key]) for key in start if not key.endswith(("_u", "_v")))
        log = (folder / "train.log").read_text()
        assert "Loading model for D" in log

    def test_strict_refuses_and_flexible_takes_what_fits(self, uninterrupted: Path, tmp_path: Path) -> None:
        options = plain(tmp_path)
        options["path"]["pretrain_network_d"] = str(uninterrupted / "models" / "net_d_8.pth")
        options["network_d"]["num_in_ch"] = 1
        options["network_g"] |= {"num_in_ch": 1, "num_out_ch": 1}
        options["datasets"]["train"]["pictures"] = ["camera", "coins"]
        options["datasets"]["val"]["pictures"] = ["moon"]
        options["train"]["total_iter"] = 1
        with pytest.raises(UserError, match=r"net_d_8\.pth does not fit"):
            train(options, quiet=True)
        folder = train(options, ["path.load_d=flexible"], quiet=True).folder
        assert "conv0.weight" in (folder / "train.log").read_text()

    def test_a_file_that_is_gone_does_not_stop_a_resume(self, uninterrupted: Path, tmp_path: Path) -> None:
        path = tmp_path / "start_d.pth"
        path.write_bytes((uninterrupted / "models" / "net_d_8.pth").read_bytes())
        options = plain(tmp_path)
        options["path"]["pretrain_network_d"] = str(path)
        train(options, ["train.total_iter=4"], quiet=True)
        path.unlink()
        assert train(options, quiet=True, auto_resume=True).iteration == 8
        with pytest.raises(UserError, match=r"start_d\.pth: there is no such weight file"):
            train({**options, "name": "fresh"}, quiet=True)

    def test_a_new_generator_keeps_the_discriminator_and_its_moments(self, tmp_path: Path) -> None:
        options = plain(tmp_path)
        folder = train(options, ["train.total_iter=4"], quiet=True).folder
        state, moments = discriminator(folder, 4), state_of(folder, 4)["optimizers"][1]["state"]
        options["network_g"]["num_conv"] = 3
        options["path"]["load"] = "flexible"
        seen: dict[str, Any] = {}
        with pytest.MonkeyPatch.context() as patch:
            from atelier.train.trainer import Trainer

            real = Trainer.step

            def step(self: Trainer, batch: Any) -> None:
                if not seen:
                    seen["net"] = {key: value.clone() for key, value in self.nets["d"].state_dict().items()}
                    averages = [value["exp_avg"].clone() for value in self.optimizers["d"].state.values()]
                    seen["moments"] = averages
                real(self, batch)

            patch.setattr(Trainer, "step", step)
            folder = train(options, quiet=True, auto_resume=True).folder
        assert_same(seen["net"], state)
        assert_same(seen["moments"], [each["exp_avg"] for each in moments.values()])
        assert "discriminator: goes on from net_d_4.pth" in (folder / "train.log").read_text()

    def test_a_run_without_one_cannot_be_continued_as_gan(self, tmp_path: Path) -> None:
        train(small_run(tmp_path), ["train.total_iter=4"], quiet=True)
        with pytest.raises(UserError, match=r"holds no network_d; start a run of another name.*net_g_4\.pth"):
            train(plain(tmp_path), quiet=True, auto_resume=True, accept_changes=True)


@pytest.mark.slow
def test_a_discriminator_with_batch_norm_resumes_exactly(tmp_path: Path) -> None:
    runs = []
    for name, first in (("whole", 8), ("half", 4)):
        options = plain(tmp_path)
        options["name"] = name
        options["network_d"] = {"type": "VGGStyleDiscriminator", "num_feat": 4}
        options["datasets"]["train"] |= {"gt_size": 128}
        options["datasets"].pop("val")
        options["train"]["gan_opt"] = {"type": "GANLoss", "relativistic": True}
        train(options, [f"train.total_iter={first}"], quiet=True)
        runs.append(train(options, quiet=True, auto_resume=True).folder)
    assert_same(*(state_of(run, 8) for run in runs))
    assert_same(*(discriminator(run, 8) for run in runs))


def change(options: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    *sections, last = key.split(".")
    inner = options
    for section in sections:
        inner = inner[section]
    if value is None:
        inner.pop(last)
    else:
        inner[last] = value
    return options


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("datasets.train.gt_size", 36, r"gt_size 36 is no multiple of 8.*the nearest is 32"),
        ("network_d", None, r"objective gan trains a discriminator: give network_d"),
        ("network_d", {"type": "SRVGGNetCompact"}, r"SRVGGNetCompact"),
        ("network_d.num_in_ch", 1, r"judges pictures of 1 channels, network_g gives 3"),
        ("train.gan_opt", None, r"objective gan needs train\.gan_opt"),
        (
            "objective",
            {"type": "pixel"},
            r"network_d, train\.gan_opt, train\.optim_d: objective pixel has no disc",
        ),
        ("objective.net_d_iters", 0, r"net_d_iters"),
        ("path.load_d", "inherit", r"load_d"),
    ],
)
def test_option_errors(tmp_path: Path, key: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_run_options(change(plain(tmp_path), key, value))


def test_option_defaults_and_warnings(tmp_path: Path) -> None:
    options = load_run_options(plain(tmp_path))
    assert options.train.optimizer_of("d").lr == 5e-4
    assert options.warnings() == []
    shared = load_run_options(change(plain(tmp_path), "train.optim_d", None))
    assert shared.train.optimizer_of("d") == shared.train.optim_g
    lone = load_run_options(change(plain(tmp_path), "train.pixel_opt", None))
    assert lone.train.all_losses == []
    never = load_run_options(plain(tmp_path, objective={"net_d_init_iters": 8}))
    assert never.warnings() == ["objective.net_d_init_iters 8 is the whole run: the generator never learns"]
