"""A denoiser with batch normalisation through a whole run: running statistics are part of what must not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import atelier
from atelier.train.run import train
from atelier.train.trainer import Trainer
from support import small_run

Tensors = dict[str, torch.Tensor]


def denoiser(root: Path, **sections: Any) -> dict[str, Any]:
    run = small_run(root, scale=1, degradation={"type": "gaussian_noise", "sigma": 25}, **sections)
    run["network_g"] = {"type": "DnCNN", "nc": 8, "nb": 5, "act_mode": "BR"}
    return run


def both(folder: Path, iteration: int) -> tuple[Tensors, Tensors | None]:
    """(weights, averaged weights) of a checkpoint."""
    file = torch.load(folder / "models" / f"net_g_{iteration}.pth", weights_only=True)
    return file["params"], file.get("params_ema")


def differing(first: Tensors, second: Tensors) -> list[str]:
    assert first.keys() == second.keys()
    return [key for key in first if not torch.equal(first[key], second[key])]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(denoiser(tmp_path_factory.mktemp("whole")), quiet=True).folder


def test_the_files_hold_the_running_statistics(whole: Path) -> None:
    params, average = both(whole, 8)
    assert average is not None
    assert int(params["model.3.num_batches_tracked"]) == 8
    assert bool(params["model.3.running_mean"].any())
    # The average copies statistics and averages weights.
    statistics = [key for key in params if "running" in key or "tracked" in key]
    assert set(differing(params, average)) == set(params) - set(statistics) and len(statistics) == 9


@pytest.mark.parametrize("checkpoint_format", ["pth", "safetensors"])
@pytest.mark.parametrize("stop", [3, 4])
def test_resume_is_exact(whole: Path, tmp_path: Path, stop: int, checkpoint_format: str) -> None:
    options = denoiser(tmp_path, checkpoint_format=checkpoint_format)
    half = train(options, [f"train.total_iter={stop}"], quiet=True)
    assert half.iteration == stop
    folder = train(options, quiet=True, auto_resume=True).folder
    state = torch.load(folder / "training_states" / "8.state", weights_only=True)
    params, average = both(whole, 8)
    assert average is not None
    if checkpoint_format == "pth":
        found, found_average = both(folder, 8)
        assert found_average is not None
    else:
        found, found_average = state["params"]["g"], state["params_ema"]
    assert differing(found, params) == [] and differing(found_average, average) == []
    expected = torch.load(whole / "training_states" / "8.state", weights_only=True)
    for key, moments in expected["optimizers"][0]["state"].items():
        for name, value in moments.items():
            assert torch.equal(state["optimizers"][0]["state"][key][name], value), (key, name)


def test_the_resume_test_has_teeth(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics that are forgotten on loading are noticed."""
    real = Trainer.load

    def forgetful(self: Trainer, *arguments: Any) -> Any:
        result = real(self, *arguments)
        for module in self.nets["g"].modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
        return result

    train(denoiser(tmp_path), ["train.total_iter=4"], quiet=True)
    monkeypatch.setattr(Trainer, "load", forgetful)
    folder = train(denoiser(tmp_path), quiet=True, auto_resume=True).folder
    assert "model.3.num_batches_tracked" in differing(both(folder, 8)[0], both(whole, 8)[0])


def test_measuring_leaves_the_network_alone(tmp_path: Path) -> None:
    """Without an average the trained network itself is measured; how often must not show."""
    results = []
    for val_freq in (1, 8):
        train_options = {"total_iter": 8, "optim_g": {"type": "Adam", "lr": 1e-3}, "ema_decay": 0}
        options = denoiser(
            tmp_path, name=f"every_{val_freq}", train=train_options, val={"val_freq": val_freq}
        )
        results.append(both(train(options, quiet=True).folder, 8)[0])
    assert differing(*results) == []


@pytest.mark.parametrize("entry", ["params", "params_ema"])
def test_the_model_restores(whole: Path, entry: str) -> None:
    model = atelier.load_model(whole / "models" / "net_g_8.pth", device="cpu", param_key=entry)
    assert (model.architecture, model.scale, model.in_channels) == ("DnCNN", 1, 1)
    picture = torch.rand(24, 20, 1, generator=torch.Generator().manual_seed(0)).numpy()
    assert model.restore(picture).shape == (24, 20, 1)


def test_it_learns(tmp_path: Path) -> None:
    """After some steps the loss is well below that of leaving the noise in."""
    options = denoiser(
        tmp_path,
        train={"total_iter": 60, "optim_g": {"type": "Adam", "lr": 3e-3}, "ema_decay": 0.9},
        logger={"print_freq": 20, "save_checkpoint_freq": 60, "use_tb_logger": False},
        val={"val_freq": 60},
    )
    options["network_g"]["nc"] = 16
    import json

    lines = (train(options, quiet=True).folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    losses = [sum(record["losses"].values()) for record in records if record["kind"] == "train"]
    noise = 25 / 255 * (2 / torch.pi) ** 0.5  # the mean absolute value of the noise
    assert losses[-1] < 0.75 * noise < losses[0]
