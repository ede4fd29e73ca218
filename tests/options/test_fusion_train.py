"""The seed's training flags: each one changes the resolved options, or says why it does nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support import REPOSITORY

from atelier.cli.main import main
from atelier.errors import UserError
from atelier.images.files import write_image
from atelier.options.fusion_train import options_of_flags, text_of_flags
from atelier.options.fusion_train_table import FLAGS, TABLE
from atelier.options.fusion_train_words import read_words
from atelier.options.read import load_run_options


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Two films of six frames in the seed's layout: with clips of 3 frames, 8 of them."""
    root = tmp_path / "films"
    lines = ["video_name,current_frame,ref1"]
    numbers = np.random.default_rng(0)
    for film in ("a", "b"):
        for frame in range(6):
            write_image(root / film / f"{frame}.png", numbers.integers(0, 255, (20, 24, 3), np.uint8))
            lines.append(f"{film},{frame}.png,{film}.png")
        write_image(root / f"{film}.png", numbers.integers(0, 255, (20, 24, 3), np.uint8))
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    return root


#: flag -> (words beside it, its value, the place that changes, what it becomes).
GAN = ("--weight_gan", "0.5")
ADAPTIVE = ("--use_adaptive_temporal",)
CHANGES: dict[str, tuple[Sequence[str], Sequence[str], str, Any]] = {
    "--memflow_ckpt": ((), ["m.pth"], "network_g.flow.weights", "m.pth"),
    "--swintexco_ckpt": ((), ["swin"], "network_g.exemplar.checkpoint", "swin"),
    "--dataset": ((), [], "datasets.train.roots", ["A", "B"]),
    "--imagenet": ((), ["P,Q"], "datasets.train.reference_roots", ["P", "Q"]),
    "--batch_size": (("--accumulation_steps", "4"), ["3"], "datasets.train.batch_size_per_gpu", 12),
    "--accumulation_steps": ((), ["4"], "train.accumulate", 4),
    "--sequence_length": ((), ["5"], "datasets.train.clip_length", 5),
    "--target_size": ((), ["256"], "datasets.train.short_side", 256),
    "--lr_swintexco": ((), ["3e-5"], "objective.lr.swintexco", 3e-5),
    "--lr_fusion": ((), ["2e-4"], "train.optim_g.lr", 2e-4),
    "--max_grad_norm": ((), ["0.5"], "train.grad_clip", 0.5),
    "--no_use_amp": ((), [], "train.precision", "fp32"),
    "--freeze_swintexco": (("--swintexco_ckpt", "swin"), [], "network_g.exemplar.freeze", True),
    "--lambda_temporal": ((), ["0.7"], "objective.loss.temporal.weight", 0.7),
    "--lambda_smooth": (ADAPTIVE, ["0.1"], "objective.loss.adaptive.smooth", 0.1),
    "--use_adaptive_temporal": ((), [], "objective.loss.temporal", None),
    "--contextual_chunk_size": ((), ["512"], "objective.loss.contextual.chunk", 512),
    "--weight_gan": ((), ["0.3"], "objective.loss.gan.weight", 0.3),
    "--lr_discriminator": (GAN, ["5e-5"], "train.optim_d.lr", 5e-5),
    "--augment_reference": ((), [], "datasets.train.reference.augment.hue", 30.0),
    "--augmentation_preset": ((), ["strong"], "datasets.train.reference.augment.tps", 0.3),
    "--hue_range": ((), ["-12", "12"], "datasets.train.reference.augment.hue", 12.0),
    "--saturation_range": ((), ["0.9", "1.1"], "datasets.train.reference.augment.saturation", [0.9, 1.1]),
    "--brightness_range": ((), ["0.6,1.4"], "datasets.train.reference.augment.brightness", [0.6, 1.4]),
    "--rgb_flip_prob": ((), ["0.4"], "datasets.train.reference.augment.permute", 0.4),
    "--horizontal_flip_prob": ((), ["0.2"], "datasets.train.reference.augment.flip", 0.2),
    "--tps_prob": ((), ["0.6"], "datasets.train.reference.augment.tps", 0.6),
    "--tps_strength": ((), ["0.5"], "datasets.train.reference.augment.tps_strength", 0.5),
    "--real_reference_probability": ((), ["0.8"], "datasets.train.reference.external", 0.8),
    "--save_dir": ((), ["out"], "path.experiments_root", "out"),
    "--device": ((), ["cpu"], "num_gpu", 0),
}
#: Flags that are counted in epochs, and what 8 clips in batches of 3 (3 steps) make of them.
COUNTED = {
    "--epochs": ((), ["5"], "train.total_iter", 15),
    "--epoch_train_discriminator": (GAN, ["4"], "objective.loss.gan.start_iter", 12),
    "--save_freq": ((), ["2"], "logger.save_checkpoint_freq", 6),
}


def resolved(words: Sequence[str]) -> dict[str, Any]:
    return options_of_flags(words).model_dump(mode="json")


def at(options: dict[str, Any], place: str) -> Any:
    value: Any = options
    for part in place.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


@pytest.mark.parametrize("name", CHANGES)
def test_each_flag_changes_the_options(name: str) -> None:
    beside, value, place, becomes = CHANGES[name]
    if name == "--dataset":
        before, after = resolved(["--dataset", "A"]), resolved(["--dataset", "A,B"])
    else:
        base = ["--dataset", "A,B", *beside]
        before, after = resolved(base), resolved([*base, name, *value])
    assert at(after, place) == becomes
    assert (
        at(before, place) != becomes if name != "--weight_gan" else before["objective"]["loss"]["gan"] is None
    )


@pytest.mark.parametrize("name", COUNTED)
def test_epochs_become_steps_of_the_counted_data_set(name: str, films: Path) -> None:
    beside, value, place, becomes = COUNTED[name]
    words = ["--dataset", str(films), "--batch_size", "3", "--target_size", "16", *beside]
    if beside:
        words[words.index("16")] = "128"
    before, after = resolved(words), resolved([*words, name, *value])
    assert (at(before, place) != becomes, at(after, place)) == (True, becomes)


def test_every_flag_of_the_table_is_tested() -> None:
    apart = {"--memflow_path", "--swintexco_path", "--use_amp", "--resume"}
    assert {flag.name for flag in FLAGS} == {*CHANGES, *COUNTED} | apart


def test_flags_that_the_package_does_not_need_are_named() -> None:
    words = ["--dataset", "A", "--memflow_path", "x", "--swintexco_path", "y"]
    options = options_of_flags(words)
    assert any("--memflow_path, --swintexco_path: do nothing" in note for note in options.warnings())
    assert options.model_dump() == options_of_flags(["--dataset", "A"]).model_dump()


def test_mixed_precision_can_be_turned_off() -> None:
    assert resolved(["--dataset", "A"])["train"]["precision"] == "bf16"
    assert resolved(["--dataset", "A", "--use_amp"])["train"]["precision"] == "bf16"
    with pytest.raises(UserError, match="contradicts --no_use_amp"):
        resolved(["--dataset", "A", "--use_amp", "--no_use_amp"])


def test_the_strategy_follows_from_swintexcos_weights() -> None:
    scratch, tuned = resolved(["--dataset", "A"]), resolved(["--dataset", "A", "--swintexco_ckpt", "S"])
    assert (scratch["name"], tuned["name"]) == ("fusion_scratch", "fusion_finetune")
    assert scratch["network_g"]["flow"]["type"] == "dis"
    rates = [options_of_flags(["--dataset", "A", *more]).network_g.exemplar.usual_rate  # type: ignore[attr-defined]
             for more in ([], ["--swintexco_ckpt", "S"])]  # fmt: skip
    assert rates == [1e-4, 1e-5]


def test_adaptive_takes_lambda_temporal() -> None:
    loss = resolved(["--dataset", "A", *ADAPTIVE, "--lambda_temporal", "0.9"])["objective"]["loss"]
    assert loss["temporal"] is None
    assert loss["adaptive"]["weight"] == 0.9


def test_a_single_flag_overrides_the_preset() -> None:
    words = ["--dataset", "A", "--augment_reference", "--augmentation_preset", "strong", "--tps_prob", "0"]
    augment = resolved(words)["datasets"]["train"]["reference"]["augment"]
    assert (augment["tps"], augment["permute"], augment["tps_strength"]) == (0.0, 0.15, 0.1)


def test_two_target_sizes_are_a_crop() -> None:
    train = resolved(["--dataset", "A", "--target_size", "128", "160"])["datasets"]["train"]
    assert (train["short_side"], train["crop"]) == (128, [128, 160])


def test_flags_that_need_another_say_so() -> None:
    words = ["--dataset", "A", "--lambda_smooth", "0.1", "--lr_discriminator", "1e-5", "--hue_range", "5"]
    notes = options_of_flags(words).warnings()
    assert any(note.startswith("--lambda_smooth: does nothing") for note in notes)
    assert any(note.startswith("--lr_discriminator: does nothing") for note in notes)
    assert any(note.startswith("--hue_range: takes effect") for note in notes)


def test_pictures_without_a_table_are_told_by_their_flag(tmp_path: Path) -> None:
    (tmp_path / "film").mkdir()
    with pytest.raises(UserError, match=r"^--imagenet: .* there is none \(\.csv\) in .*FILM\.refs/"):
        options_of_flags(["--dataset", str(tmp_path), "--imagenet", "P"])
    (tmp_path / "train.csv").write_text("")
    assert options_of_flags(["--dataset", str(tmp_path), "--imagenet", "P"])


def test_the_written_file_is_the_same_run(tmp_path: Path) -> None:
    words = [
        "--dataset",
        "A,B",
        "--memflow_ckpt",
        "m.pth",
        "--swintexco_ckpt",
        "s",
        *GAN,
        "--augment_reference",
    ]
    words += ["train.total_iter=77", "--save_dir", "out"]
    text, _ = text_of_flags(words)
    (tmp_path / "run.yml").write_text(text)
    again = load_run_options(tmp_path / "run.yml").model_dump(mode="json")
    assert again == resolved(words)
    assert again["train"]["total_iter"] == 77
    assert again["train"]["scheduler"]["periods"] == [77]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--dataset is needed"),
        (["--datset", "A"], "--datset: unknown flag; did you mean '--dataset'?"),
        (["--dataset", "A", "--epochs", "x"], "--epochs: given 'x', a whole number belongs here"),
        (["--dataset", "A", "--epochs", "2"], "--dataset A is no folder here"),
        (["--dataset", "A", "--dataset", "B"], "--dataset is given twice"),
        (["--dataset"], "--dataset: needs a value"),
        (["A"], "'A' belongs to no flag"),
        (["--dataset", "A", "--resume", "no.state"], "--resume: no.state does not exist"),
        (["--dataset", "A", "--hue_range", "-5", "9"], "--hue_range: given"),
        (["--dataset", "A", "--tps_prob", "7"], r"--tps_prob.*given 7"),
        (["--dataset", "A", "--device", "tpu"], "--device: given 'tpu', allowed"),
        (["--dataset", "A", "--saturation_range", "1.1"], "two factors belong here"),
        (["--dataset", "A", "--use_adaptive_temporal=yes"], "is a switch"),
    ],
)
def test_mistakes_name_the_flag(words: list[str], message: str) -> None:
    with pytest.raises(
        UserError, match=message if "\\" in message or ".*" in message else re.escape(message)
    ):
        options_of_flags(words)


def test_a_checkpoint_of_ours_is_resumed_and_the_seeds_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "5.state").touch()
    (tmp_path / "latest.pth").touch()
    words = ["--dataset", "A", "--resume"]
    assert resolved([*words, str(tmp_path / "5.state")])["path"]["resume_state"] == str(tmp_path / "5.state")
    with pytest.raises(UserError, match=r"training_states/N\.state"):
        resolved([*words, str(tmp_path / "latest.pth")])


def test_words_are_divided_into_flags_and_overrides() -> None:
    words = ["--batch-size=4", "train.total_iter=9", "--dataset", "a=b,c", "--target_size", "64", "name=x"]
    given, overrides = read_words(words)
    assert given == {"--batch_size": 4, "--dataset": ["a=b", "c"], "--target_size": [64]}
    assert overrides == ["train.total_iter=9", "name=x"]


def test_the_command_line_converts_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["options", "convert", "--from", "fusion-train", "--", "--dataset", "A", "--lr_fusion", "3e-4"])
    assert ended.value.code == 0
    assert "lr: 0.0003" in capsys.readouterr().out
    for words in (["--dataset", "A", "--resume", "gone.state"], ["--dataset", "A", "--nonsense"]):
        with pytest.raises(SystemExit) as ended:
            main(["train", "--from", "fusion-train", "--", *words])
        assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended:
        main(["train", "--from", "kair", "--", "--dataset", "A"])
    assert ended.value.code == 2
    assert "allowed is fusion-train" in capsys.readouterr().err


def test_the_documents_table_is_the_converters() -> None:
    assert TABLE.markdown() in (REPOSITORY / "docs" / "colorize-training.md").read_text()
