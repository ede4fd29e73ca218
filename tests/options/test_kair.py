"""KAIR's option files: every key mapped, named or refused; lines kept; conversion is a fixed point."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier.errors import UserError
from atelier.options.foreign_text import converted_text
from atelier.options.kair import convert, is_kair
from atelier.options.kair_conversion import Conversion
from atelier.options.kair_datasets import lq_template
from atelier.options.kair_table import KEYS, TABLE
from atelier.options.read import load_run_options
from atelier.options.source import OptionFile, read_option_file
from options.kair_files import PLAIN, REAL_GAN, as_kair_writes, changed
from support import REPOSITORY

Refusal = Callable[..., str]


def write(folder: Path, data: dict[str, Any], name: str = "run.json") -> Path:
    path = folder / name
    path.write_text(as_kair_writes(data))
    return path


def tree_of(data: dict[str, Any], processes: int | None = None) -> dict[str, Any]:
    return convert(OptionFile("", data), processes)[0].data


def notes_of(data: dict[str, Any]) -> str:
    return "\n".join(convert(OptionFile("", data))[1])


# -------------------------------------------------------------------- misspelt keys


@pytest.mark.parametrize(
    ("holder", "name", "wrong"),
    [
        ((), "netG", "netg"),
        ((), "train", "trian"),
        ((), "datasets", "dataset"),
        ((), "model", "modle"),
        (("netG",), "depths", "deths"),
        (("netG",), "net_type", "net_typ"),
        (("datasets",), "train", "trian"),
        (("datasets", "train"), "dataroot_H", "dataroot_h"),
        (("train",), "G_optimizer_lr", "G_optimiser_lr"),
    ],
)
def test_a_misspelt_key_is_the_only_complaint(
    holder: tuple[str, ...], name: str, wrong: str, tmp_path: Path
) -> None:
    data = copy.deepcopy(PLAIN["grey_dn"])
    section = data
    for part in holder:
        section = section[part]
    section[wrong] = section.pop(name)
    path = write(tmp_path, data)
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if f'"{wrong}"' in text)
    with pytest.raises(UserError) as told:
        load_run_options(path)
    dotted = ".".join((*holder, wrong))
    assert str(told.value).startswith(f"{path}:{line}: {dotted}: unknown key; did you mean '{name}'?")
    assert "\n" not in str(told.value)


def test_a_misspelt_section_comes_before_mistakes_of_its_own_and_of_others(tmp_path: Path) -> None:
    data = copy.deepcopy(PLAIN["grey_dn"])
    data["dist"] = "yes"
    data["netg"] = {**data.pop("netG"), "net_type": "unheard"}
    with pytest.raises(UserError) as told:
        load_run_options(write(tmp_path, data))
    first, *others = str(told.value).splitlines()
    assert "netg: unknown key; did you mean 'netG'?" in first
    assert len(others) == 1 and "'unheard'" in others[0]


def test_a_misspelling_beside_the_right_key_replaces_nothing(tmp_path: Path) -> None:
    data = copy.deepcopy(PLAIN["grey_dn"])
    data["netG"]["deths"] = [1]
    with pytest.raises(UserError, match="did you mean 'depths'") as told:
        load_run_options(write(tmp_path, data))
    assert "\n" not in str(told.value)
    assert data["netG"]["depths"] == [6] * 6


# -------------------------------------------------------------------- the files of every task


@pytest.mark.parametrize("name", PLAIN)
def test_every_file_converts_and_passes_the_schema(name: str, tmp_path: Path) -> None:
    options = load_run_options(write(tmp_path, PLAIN[name]))
    assert options.name == PLAIN[name]["task"]
    assert options.run_dir == Path(PLAIN[name]["path"]["root"]) / options.name
    assert options.scale == PLAIN[name].get("scale", 1)
    assert options.train.total_iter == PLAIN[name]["train"]["G_scheduler_milestones"][-1]
    assert options.logger.log_format == "kair"


@pytest.mark.parametrize("name", PLAIN)
def test_converted_then_read_again_is_a_fixed_point(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, PLAIN[name])
    text, _ = converted_text(path)
    yaml = tmp_path / "run.yml"
    yaml.write_text(text)
    once, direct = load_run_options(yaml), load_run_options(path)
    shares = PLAIN[name]["datasets"]["train"]["dataloader_batch_size"]
    assert once.datasets.train.batch_size_per_gpu * 2 == shares == direct.datasets.train.batch_size_per_gpu
    same = ["datasets.train.batch_size_per_gpu=1", "datasets.train.num_worker_per_gpu=0", "num_gpu=auto"]
    assert load_run_options(yaml, same).model_dump(mode="json") == load_run_options(path, same).model_dump(
        mode="json"
    )
    assert not is_kair(read_option_file(yaml).data)


def test_the_meaning_of_a_denoising_file() -> None:
    assert tree_of(PLAIN["grey_dn"], processes=2) == {
        "name": "swinir_denoising_gray_15",
        "objective": "pixel",
        "scale": 1,
        "manual_seed": 0,
        "num_gpu": "auto",
        "path": {"experiments_root": "denoising", "resume": "auto"},
        "degradation": {"type": "gaussian_noise", "sigma": 15},
        "datasets": {
            "train": {
                "name": "train_dataset",
                "dataroot_gt": "trainsets/trainH",
                "convert_channels": True,
                "gt_size": 128,
                "batch_size_per_gpu": 4,
                "num_worker_per_gpu": 8,
            },
            "val": {
                "name": "test_dataset",
                "dataroot_gt": "testsets/Set5/HR",
                "convert_channels": True,
                "degradation": {"type": "gaussian_noise", "sigma": 15, "noise_seed": 0, "noise_order": "rgb"},
            },
        },
        "network_g": {
            "type": "SwinIR",
            "upscale": 1,
            "in_chans": 1,
            "img_size": 128,
            "window_size": 8,
            "img_range": 1.0,
            "depths": [6] * 6,
            "embed_dim": 180,
            "num_heads": [6] * 6,
            "mlp_ratio": 2,
            "resi_connection": "1conv",
        },
        "train": {
            "pixel_opt": {"type": "CharbonnierLoss", "loss_weight": 1.0, "eps": 1e-9},
            "optim_g": {"type": "Adam", "lr": 2e-4, "weight_decay": 0},
            "scheduler": {
                "type": "MultiStepLR",
                "milestones": [800000, 1200000, 1400000, 1500000, 1600000],
                "gamma": 0.5,
            },
            "total_iter": 1600000,
            "ema_decay": 0.999,
        },
        "val": {
            "measure": "both",
            "val_freq": 5000,
            "metrics": {
                "psnr": {"type": "calculate_psnr", "crop_border": 1},
                "psnr_border0": {"type": "calculate_psnr", "crop_border": 0},
            },
        },
        "logger": {"save_checkpoint_freq": 5000, "print_freq": 200, "log_format": "kair"},
    }


def test_what_each_task_degrades_with() -> None:
    classical = tree_of(PLAIN["classical"])
    assert "degradation" not in classical
    assert classical["datasets"]["val"]["dataroot_lq"] == "testsets/Set5/LR_bicubic/X2"
    light = tree_of(PLAIN["lightweight"])
    assert (
        light["degradation"]
        == light["datasets"]["val"]["degradation"]
        == {"type": "bicubic", "lq_round": False}
    )
    real = tree_of(PLAIN["real_psnr"])
    assert (
        real["degradation"]
        == real["datasets"]["val"]["degradation"]
        == {"type": "bsrgan", "variant": "bsrgan"}
    )
    assert "train.use_sharp: does nothing: degradation_type is 'bsrgan'" in notes_of(PLAIN["real_psnr"])
    plus = tree_of(changed("real_psnr", datasets__train__degradation_type="bsrgan_plus"))
    assert plus["degradation"] == {
        "type": "bsrgan",
        "variant": "bsrgan_plus",
        "shuffle_prob": 0.1,
        "use_sharp": True,
    }
    jpeg = tree_of(PLAIN["jpeg"])
    assert (jpeg["degradation"]["type"], jpeg["degradation"]["quality"]) == ("jpeg", 40)
    assert jpeg["datasets"]["val"]["degradation"]["quality"] == 40
    assert [jpeg["datasets"][key]["grey_from"] for key in ("train", "val")] == ["mixed", "y"]


def test_elsa_and_a_changed_architecture() -> None:
    tree = tree_of(PLAIN["elsa_large"])
    assert tree["network_g"]["attention"] == "elsa"
    assert tree["network_g"]["elsa"] == {"scope": "window", "kernel_size": 7, "lam": 1, "gamma": 1}
    assert tree_of(PLAIN["elsa_small"])["network_g"]["elsa"] == tree["network_g"]["elsa"]
    assert tree["path"] == {"experiments_root": "denoising", "resume": "never", "load": "flexible"}
    short = changed("grey_dn", netG__elsa=True, netG__elsa_lam=0)
    assert tree_of(short)["network_g"]["elsa"]["lam"] == 0
    off = changed("grey_dn", netG__use_elsa=False, netG__elsa_lam=0)
    assert tree_of(off)["network_g"]["attention"] == "window"
    assert "netG.elsa_lam: does nothing: use_elsa is not true" in notes_of(off)


def test_several_test_sets() -> None:
    data = changed("grey_dn")
    for key in ("test_2", "test_bsd68", "test3"):
        data["datasets"][key] = {**data["datasets"]["test"], "sigma_test": 50, "name": key}
    sets = tree_of(data)["datasets"]
    assert list(sets) == ["train", "val", "val_2", "val_bsd68", "val_3"]
    assert sets["val_3"]["degradation"]["sigma"] == 50


# -------------------------------------------------------------------- values KAIR takes otherwise


def test_values_are_taken_as_written(refusal: Refusal) -> None:
    zero = changed("grey_dn", datasets__train__sigma=0, datasets__test__sigma_test=0)
    assert tree_of(zero)["degradation"]["sigma"] == 0
    assert tree_of(zero)["datasets"]["val"]["degradation"]["sigma"] == 0
    assert "datasets.train.sigma: 0 is taken as written; KAIR makes it 25" in notes_of(zero)
    bare = changed(
        "grey_dn", datasets__train__sigma=..., datasets__test__sigma_test=..., datasets__test__sigma=...
    )
    assert tree_of(bare)["degradation"]["sigma"] == 25
    assert notes_of(bare).count("sigma is left out; KAIR's 25 is taken") == 2
    assert tree_of(changed("jpeg", is_color=...))["network_g"]["in_chans"] == 1
    assert tree_of(changed("grey_dn", netG__in_chans=...))["network_g"]["in_chans"] == 1
    assert tree_of(changed("grey_dn", train__E_decay=...))["train"]["ema_decay"] == 0
    assert tree_of(changed("grey_dn", train__manual_seed=7))["manual_seed"] == 7
    assert "0 is taken and saved" in notes_of(PLAIN["grey_dn"])
    assert tree_of(changed("grey_dn", train__total_iter=9))["train"]["total_iter"] == 9
    assert tree_of(changed("grey_dn", train__E_param_strict=False))["path"]["load_ema"] == "flexible"


@pytest.mark.parametrize(
    ("kind", "ours"),
    [
        ("l1", {"type": "L1Loss"}),
        ("l2", {"type": "MSELoss"}),
        ("l2sum", {"type": "MSELoss", "reduction": "sum"}),
        ("ssim", {"type": "SSIMLoss"}),
        ("charbonnier", {"type": "CharbonnierLoss", "eps": 1e-9}),
    ],
)
def test_losses(kind: str, ours: dict[str, Any]) -> None:
    data = changed("classical", train__G_lossfn_type=kind, train__G_lossfn_weight=3)
    assert tree_of(data)["train"]["pixel_opt"] == {**ours, "loss_weight": 3}
    if kind == "ssim":
        assert "KAIR minimises SSIM itself" in notes_of(data)
    if kind == "charbonnier":
        assert "G_charbonnier_eps: left out, which KAIR cannot run with; 1e-09 is taken" in notes_of(data)


def test_restarts() -> None:
    data = changed(
        "classical",
        train__G_scheduler_type="CosineAnnealingWarmRestarts",
        train__G_scheduler_periods=[100, 200],
        train__G_scheduler_eta_min=1e-7,
    )
    train = tree_of(data)["train"]
    assert train["scheduler"] == {
        "type": "CosineAnnealingRestartLR",
        "periods": [100, 200],
        "restart_weights": [1, 1],
        "eta_min": 1e-7,
    }
    assert train["total_iter"] == 300
    assert "train.G_scheduler_milestones, G_scheduler_gamma: do nothing" in notes_of(data)


def test_start_regularisers_and_clipping() -> None:
    data = changed("dncnn", train__G_regularizer_orthstep=10, train__G_optimizer_clipgrad=0.5)
    train = tree_of(data)["train"]
    assert train["weight_init"] == {"type": "orthogonal", "gain": 0.2, "bn_type": "uniform"}
    assert train["regularizer"] == {"orth_freq": 10}
    assert train["grad_clip"] == 0.5
    assert "weight_init" not in tree_of(PLAIN["classical"])["train"]


# -------------------------------------------------------------------- nothing is dropped silently


def _leaves(data: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    return [
        leaf
        for key, value in data.items()
        for leaf in (_leaves(value, (*path, key)) if isinstance(value, dict) else [(*path, key)])
    ]


def _other(value: Any) -> Any:
    """Another value of the same kind, so that the change itself is no mistake of type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 2 + 2
    if isinstance(value, list):
        return [_other(item) for item in value]
    return "other" if value is None else f"{value}_other"


def _answered(data: dict[str, Any], before: dict[str, Any], key: str) -> bool:
    """The options changed, a note names the key, or a refusal does."""
    try:
        tree, notes = convert(OptionFile("", data))
    except UserError as error:
        return key in str(error)
    return tree.data != tree_of(before) or any(key in note for note in notes)


@pytest.mark.parametrize("name", PLAIN)
def test_changing_any_key_changes_the_options_or_is_told(name: str) -> None:
    for leaf in _leaves(PLAIN[name]):
        data = copy.deepcopy(PLAIN[name])
        holder: Any = data
        for part in leaf[:-1]:
            holder = holder[part]
        holder[leaf[-1]] = _other(holder[leaf[-1]])
        assert _answered(data, PLAIN[name], leaf[-1]), leaf


@pytest.mark.parametrize(
    "key", [key for key in KEYS if key.section in ("", "path", "train", "netG", "datasets")]
)
def test_every_key_of_the_table_is_mapped_or_named(key: Any) -> None:
    """A key put into a file where it has no use is named with the reason; none passes unseen."""
    data = copy.deepcopy(PLAIN["grey_dn"])
    name = key.name.replace("*", "thing")
    holder = (
        data["datasets"]["train"] if key.section == "datasets" else data[key.section] if key.section else data
    )
    if name in holder:
        return
    switches = {"use_elsa", "elsa", "is_color", "ignore_resume_network"}
    holder[name] = True if name in switches else 7
    assert _answered(data, PLAIN["grey_dn"], name)


def test_keys_without_use_are_named_with_line_and_reason(tmp_path: Path) -> None:
    path = write(tmp_path, PLAIN["dncnn"])
    lines = path.read_text().splitlines()
    notes = convert(read_option_file(path))[1]
    line = next(place for place, text in enumerate(lines, 1) if '"gc"' in text)
    assert f"{path}:{line}: netG.gc: does nothing: net_type 'dncnn' does not read it" in notes
    assert any("merge_bn, merge_bn_startpoint: do nothing: BatchNorm is not folded" in note for note in notes)
    assert any("sigma: does nothing: KAIR reads the data set's own" in note for note in notes)


def test_notes_are_among_the_warnings(tmp_path: Path) -> None:
    options = load_run_options(write(tmp_path, PLAIN["grey_dn"]))
    assert any("manual_seed is left out" in note for note in options.warnings())
    assert load_run_options(PLAIN["grey_dn"]).model_dump() == options.model_dump()


# -------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"model": "gan"},
            ":3: model: given 'gan', not supported yet (adversarial training); supported: 'plain'",
        ),
        ({"model": "plain4"}, "networks with four inputs"),
        ({"netG__embed_dims": 60}, "netG.embed_dims: unknown key; did you mean 'embed_dim'?"),
        ({"train__G_optimiser_lr": 1e-4}, "unknown key; did you mean 'G_optimizer_lr'?"),
        ({"datasets__train__h_size": 64}, "unknown key; did you mean 'H_size'?"),
        (
            {"netG__net_type": "drunet"},
            "given 'drunet', not supported; supported: swinir, dncnn, rrdbnet, msrresnet1",
        ),
        ({"netG__upscale": 2}, "netG.upscale: given 2, but scale is 1 (left out); make them equal"),
        ({"n_channels": 3}, "n_channels: given 3, but netG.in_chans is 1; make them equal"),
        ({"datasets__train__is_color": True}, "is_color: given true, but netG.in_chans is 1"),
        ({"datasets__train__dataset_type": "ffdnet"}, "not supported: it feeds the noise level"),
        ({"datasets__train__dataset_type": "VideoRecurrentTrainDataset"}, "video is not trained here"),
        ({"datasets__train__dataset_type": "l"}, "no clean pictures"),
        ({"datasets__train__dataset_type": "dncn"}, "given 'dncn', not supported; supported: sr, "),
        ({"datasets__validation": {}}, "data sets are called train, test, test_2"),
        ({"datasets__train__dataroot_H": None}, "dataroot_H is missing"),
        (
            {"train__G_lossfn_type": "l1c"},
            "given 'l1c', not supported; supported: l1, l2, l2sum, ssim, charbonnier",
        ),
        ({"train__G_scheduler_type": "StepLR"}, "supported: MultiStepLR, CosineAnnealingWarmRestarts"),
        ({"train__G_scheduler_milestones": []}, "no number of steps"),
        ({"train__G_scheduler_milestones": [True]}, "no number of steps"),
        ({"train__G_optimizer_type": "adamw"}, "KAIR knows only adam"),
        ({"netG__embed_dim": ...}, "embed_dim is missing; net_type 'swinir' needs it"),
        ({"path__ignore_resume_network": "yes"}, "given 'yes', allowed: true or false"),
        ({"gpu_ids": "0"}, "given '0', allowed: a list of whole numbers"),
        ({"netG": []}, "netG: given [], a section of keys belongs here"),
    ],
)
def test_refusals(values: dict[str, Any], message: str, tmp_path: Path, refusal: Refusal) -> None:
    path = write(tmp_path, changed("grey_dn", **values))
    said = refusal(convert, read_option_file(path))
    assert message in said
    assert said.startswith(f"{path}:")


def test_the_adversarial_file_is_refused_by_name(refusal: Refusal) -> None:
    assert "model: given 'gan', not supported yet" in refusal(load_run_options, REAL_GAN)


def test_all_mistakes_are_told_at_once_in_order(tmp_path: Path, refusal: Refusal) -> None:
    data = changed("grey_dn", train__G_lossfn_type="l1c", netG__embed_dims=3, n_channels=3)
    lines = refusal(load_run_options, write(tmp_path, data)).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["n_channels", "netG.embed_dims", "train.G_lossfn_type"]


def test_a_strange_key_far_from_all_known_ones_is_named() -> None:
    notes = notes_of(changed("grey_dn", tile_pad=32, manual_seed=3))
    assert "tile_pad: unknown key, ignored by KAIR and here" in notes
    assert "manual_seed: does nothing here: KAIR reads it in train" in notes


def test_the_schemas_message_names_the_json_line_and_key(tmp_path: Path, refusal: Refusal) -> None:
    path = write(tmp_path, changed("grey_dn", netG__num_heads=[6, 6, 0, 6, 6, 6], train__G_optimizer_lr=-1))
    lines = path.read_text().splitlines()
    rate = next(place for place, text in enumerate(lines, 1) if '"G_optimizer_lr"' in text)
    heads = next(place for place, text in enumerate(lines, 1) if '"num_heads"' in text)
    said = refusal(load_run_options, path)
    assert f"{path}:{rate} (train.G_optimizer_lr): train.optim_g.lr: given -1" in said
    assert f"{path}:{heads} (netG.num_heads): network_g.num_heads: given" in said


def test_a_window_that_does_not_divide_the_patch_is_one_message(tmp_path: Path, refusal: Refusal) -> None:
    said = refusal(load_run_options, write(tmp_path, changed("grey_dn", datasets__train__H_size=100)))
    assert "gives lq crops of 100, which windows of 8 do not divide" in said


# -------------------------------------------------------------------- reading


@pytest.mark.parametrize("name", PLAIN)
def test_marks(name: str) -> None:
    assert is_kair(PLAIN[name])
    assert not is_kair(tree_of(PLAIN[name]))


@given(st.text(alphabet=st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=12))
def test_slashes_inside_texts_survive(text: str) -> None:
    from atelier.options.json_reader import parse_json

    written = as_kair_writes(changed("grey_dn", path__root=f"//{text}//x"))
    data, lines = parse_json(written, "run.json")
    assert tree_of(data)["path"]["experiments_root"] == f"//{text}//x"
    assert lines[("path", "root")] > 1


def test_overrides_act_on_the_converted_options(tmp_path: Path) -> None:
    path = write(tmp_path, PLAIN["grey_dn"])
    options = load_run_options(path, ["train.total_iter=7", "network_g.embed_dim=60"])
    assert (options.train.total_iter, options.network_g.embed_dim) == (7, 60)  # type: ignore[attr-defined]
    assert options.network_g.in_channels == 1


def test_the_batch_of_all_processes_is_kairs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_run_options(PLAIN["grey_dn"]).datasets.train.batch_size_per_gpu == 8
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert load_run_options(PLAIN["grey_dn"]).datasets.train.batch_size_per_gpu == 2
    assert tree_of(PLAIN["grey_dn"])["num_gpu"] == 2
    assert tree_of(changed("grey_dn", gpu_ids=[]))["num_gpu"] == 0


def test_names_of_lq_files_are_found(tmp_path: Path) -> None:
    for name in ("gt/baby.png", "gt/bird.png", "lq/babyx4.png", "lq/birdx4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    gt, lq = tmp_path / "gt", tmp_path / "lq"
    assert lq_template(gt, lq, 4) == "{}x4"
    assert lq_template(gt, lq, 2) == lq_template(gt, gt, 4) == lq_template(gt, tmp_path / "none", 4) == "{}"
    data = changed("lightweight", datasets__test__dataroot_H=str(gt), datasets__test__dataroot_L=str(lq))
    assert tree_of(data)["datasets"]["val"]["filename_tmpl"] == "{}x4"


def test_the_documents_table_is_the_converters() -> None:
    assert TABLE.markdown() in (REPOSITORY / "docs" / "from-kair.md").read_text()


def test_plain_json_of_kairs_own_dump_is_read(tmp_path: Path) -> None:
    """KAIR saves the options it worked out; such a file converts to the same run."""
    data = changed("grey_dn", opt_path="x.json", is_train=True, num_gpu=2, path__models="denoising/x/models")
    data["datasets"]["train"] |= {"phase": "train", "scale": 1, "n_channels": 1}
    data["netG"]["scale"] = 1
    path = tmp_path / "dump.json"
    path.write_text(json.dumps(data, indent=2))
    assert convert(read_option_file(path))[0].data == tree_of(PLAIN["grey_dn"])


ODD: list[Any] = [None, "x", "", [], {}, [1, "x"], {"x": 1}, 3, 0, -1, True, 1.5, 10**30]


@pytest.mark.parametrize("name", ["real_psnr", "elsa_large"])
def test_a_value_of_any_kind_anywhere_is_read_or_refused(name: str) -> None:
    """Whatever stands in place of a value or a whole section: options, or one message to the user."""
    places = [*_leaves(PLAIN[name]), ("path",), ("datasets",), ("datasets", "test"), ("netG",), ("train",)]
    for place in places:
        for odd in ODD:
            data = copy.deepcopy(PLAIN[name])
            holder: Any = data
            for part in place[:-1]:
                holder = holder[part]
            holder[place[-1]] = odd
            try:
                load_run_options(data)
            except UserError as error:
                assert str(error), (place, odd)


def test_older_names_of_jpeg_files() -> None:
    data = changed("jpeg", n_channels=1)
    for key in ("train", "test"):
        levels = {"quality_factor": 30, "quality_factor_test": 20}
        holder = data["datasets"][key]
        for name, value in levels.items():
            del holder[name]
            holder[name.replace("_factor", "")] = value
        holder["dataset_type"] = "deblocking"
    tree = tree_of(data)
    assert tree["degradation"]["quality"] == 30
    assert tree["datasets"]["val"]["degradation"]["quality"] == 20
    assert "datasets.test.quality: does nothing in testing: quality_test is there" in notes_of(data)


def test_without_the_last_look_a_key_would_pass_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of every key has teeth: it fails once unread keys are no longer looked for."""
    data = changed("grey_dn", merge_bn=True)
    assert _answered(data, PLAIN["grey_dn"], "merge_bn")
    monkeypatch.setattr("atelier.options.kair_conversion.Conversion.finish", lambda self: None)
    assert not _answered(data, PLAIN["grey_dn"], "merge_bn")


def test_every_key_that_is_read_stands_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the document, which is made of the table, cannot leave out a key that means something."""
    read: set[tuple[str, str]] = set()

    def collect(conversion: Conversion) -> None:
        for path in conversion._read:
            section = (
                "datasets" if path[0] == "datasets" and len(path) == 3 else str(path[0]) if path[1:] else ""
            )
            if not (path[0] == "datasets" and len(path) == 2):
                read.add((section, str(path[-1])))

    monkeypatch.setattr(Conversion, "finish", collect)
    for data in PLAIN.values():
        convert(OptionFile("", data))
    assert len(read) > 70
    assert [place for place in sorted(read) if TABLE.find(*place) is None] == []


def test_a_batch_that_two_gpus_cannot_share_is_left_whole() -> None:
    """Converting a file is no reason to refuse what one process can train."""
    file = changed("grey_dn", datasets__train__dataloader_batch_size=7)
    tree, notes = convert(OptionFile("", file))
    assert tree.data["datasets"]["train"]["batch_size_per_gpu"] == 7
    assert any("a total of 7 cannot be divided among 2 processes" in note for note in notes)
    with pytest.raises(UserError, match="a total of 7 cannot be divided among 2 processes"):
        convert(OptionFile("", file), 2)
