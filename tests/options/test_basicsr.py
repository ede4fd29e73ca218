"""BasicSR's and Real-ESRGAN's option files: every key mapped, named or refused, with file and line."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from atelier.cli.options import app
from atelier.errors import UserError
from atelier.options.basicsr import convert, is_basicsr
from atelier.options.basicsr_conversion import Conversion
from atelier.options.basicsr_table import KEYS, TABLE
from atelier.options.foreign_text import converted_text
from atelier.options.read import load_run_options
from atelier.options.schema import RunOptions
from atelier.options.source import OptionFile, read_option_file
from options.basicsr_files import FILES, as_yaml, changed
from support import REPOSITORY, SHARED

DOCUMENT = REPOSITORY / "options" / "finetune_small_realesr_animevideox2v3.yml"
GAN, NET, PAIRS = (
    "train_realesrgan_x4plus+val",
    "train_realesrnet_x2plus",
    "finetune_realesrgan_x4plus_pairdata",
)


def write(folder: Path, data: dict[str, Any]) -> Path:
    path = folder / "run.yml"
    path.write_text(as_yaml(data))
    return path


def tree_of(data: dict[str, Any]) -> dict[str, Any]:
    return convert(OptionFile("", data))[0].data


def notes_of(data: dict[str, Any]) -> str:
    return "\n".join(convert(OptionFile("", data))[1])


def refusal(data: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        load_run_options(data)
    return str(caught.value)


# -------------------------------------------------------------------- the published files


@pytest.mark.parametrize("name", FILES)
def test_published_files_pass_with_the_expected_notes_alone(name: str, tmp_path: Path) -> None:
    data = FILES[name]
    options = load_run_options(write(tmp_path, data))
    expected = ["dist_params.port: does nothing", "is not before total_iter"]
    expected += ["the pool is not needed"] if "pairdata" not in name else []
    expected += ["no datasets.val"] if "val" not in data else []
    warnings = options.warnings()
    assert len(warnings) == len(expected)
    assert all(any(text in warning for warning in warnings) for text in expected)
    assert options.name == data["name"]
    assert options.network_g.scale == options.scale == data["scale"]
    assert options.train.total_iter == data["train"]["total_iter"]
    assert options.datasets.train.batch_size_per_gpu == 12
    assert options.train.ema_decay == 0.999


@pytest.mark.parametrize("name", FILES)
def test_converted_then_read_again_is_a_fixed_point(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, FILES[name])
    text, _ = converted_text(path)
    assert text.startswith("# Converted from BasicSR's run.yml.\n")
    ours = tmp_path / "ours.yml"
    ours.write_text(text)
    assert not is_basicsr(read_option_file(ours).data)
    assert load_run_options(ours).model_dump(mode="json") == load_run_options(path).model_dump(mode="json")


def test_the_document_is_shipped_unchanged() -> None:
    if not (SHARED / "spec" / "realesrgan_finetune.yml").exists():
        pytest.skip("the source document's file is not here")
    assert DOCUMENT.read_bytes() == (SHARED / "spec" / "realesrgan_finetune.yml").read_bytes()


def test_the_meaning_of_the_document() -> None:
    options = load_run_options(DOCUMENT).model_dump(mode="json")
    assert options["objective"] == {
        "type": "gan",
        "l1_gt_usm": True,
        "percep_gt_usm": True,
        "gan_gt_usm": False,
        "net_d_iters": 1,
        "net_d_init_iters": 0,
        "r1_reg_weight": 0.0,
        "net_d_reg_every": 16,
    }
    degradation = options["degradation"]
    assert (degradation["type"], degradation["gt_usm"], degradation["target_usm"]) == (
        "realesrgan",
        True,
        False,
    )
    assert (degradation["resize_range"], degradation["blur_sigma2"]) == ([0.15, 1.5], [0.2, 1.5])
    assert options["datasets"]["train"]["meta_info"] == "datasets/DF2K/meta_info/meta_info_DF2K.txt"
    assert (options["datasets"]["train"]["gt_size"], options["datasets"]["train"]["use_rot"]) == (256, False)
    assert options["datasets"]["val"]["dataroot_lq"] == "datasets/Set5/LRbicx2"
    assert (options["network_g"]["num_feat"], options["network_g"]["upscale"]) == (32, 2)
    assert options["network_d"]["type"] == "UNetDiscriminatorSN"
    path = options["path"]
    assert (path["load"], path["load_d"]) == ("flexible", "flexible")
    assert path["pretrain_network_g"] == "weights/transferred_32_32_x2.pth"
    # null: params_ema, then params, as BasicSR falls back
    assert (path["param_key_g"], path["pretrain_network_ema"]) == (None, None)
    train = options["train"]
    assert (train["optim_g"]["lr"], train["optim_d"]["betas"]) == (1e-4, [0.9, 0.99])
    assert train["gan_opt"]["loss_weight"] == 0.1
    assert train["perceptual_opt"]["layer_weights"]["conv1_2"] == 0.1
    assert (options["val"]["val_freq"], options["val"]["metrics"]["psnr"]["crop_border"]) == (5000, 4)


# -------------------------------------------------------------------- models


@pytest.mark.parametrize(
    ("kind", "objective", "relativistic"),
    [
        ("SRModel", "pixel", None),
        ("SwinIRModel", "pixel", None),
        ("SRGANModel", "gan", False),
        ("ESRGANModel", "gan", True),
    ],
)
def test_models_that_train_on_pairs(kind: str, objective: str, relativistic: bool | None) -> None:
    data = changed(PAIRS, model_type=kind, datasets__train__type="PairedImageDataset")
    options = load_run_options(data)
    assert options.objective.type == objective
    assert options.degradation is None
    gan = options.train.gan_opt
    assert (gan is None) == (relativistic is None)
    assert gan is None or gan.model_dump()["relativistic"] is relativistic
    idle = f"do nothing: model_type {kind} does not read it"
    notes = notes_of(data)
    assert any(line.startswith("l1_gt_usm, percep_gt_usm") and idle in line for line in notes.splitlines())
    assert ("train.optim_d, gan_opt" in notes) == (relativistic is None)


def test_realesrnet_sharpens_input_and_target_together() -> None:
    for switch in (True, False):
        degradation = tree_of(changed(NET, gt_usm=switch))["degradation"]
        assert (degradation["gt_usm"], degradation["target_usm"]) == (switch, switch)
    assert "gt_usm" not in tree_of(FILES[GAN])["degradation"]


def test_switches_of_the_gan_model_are_true_where_left_out() -> None:
    data = changed(GAN, gan_gt_usm=...)
    assert tree_of(data)["objective"]["gan_gt_usm"] is True
    assert "gan_gt_usm: left out, which BasicSR cannot run with; true is taken" in notes_of(data)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("EDVRModel", "given 'EDVRModel', not supported (video); supported: SRModel"),
        ("GFPGANModel", "not supported (faces)"),
        ("RealESRGAN", "given 'RealESRGAN', not supported; supported: SRModel, SwinIRModel"),
        (3, "given 3, not supported"),
    ],
)
def test_other_models_are_refused_by_name(kind: Any, message: str) -> None:
    assert message in refusal(changed(GAN, model_type=kind))


# -------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"l1_gt_ums": True}, "l1_gt_ums: unknown key; did you mean 'l1_gt_usm'? (BasicSR would ignore"),
        ({"train__totl_iter": 5}, "train.totl_iter: unknown key; did you mean 'total_iter'?"),
        ({"datasets__train__use_hflop": True}, "did you mean 'use_hflip'?"),
        ({"train__print_freq": 5}, "train.print_freq: unknown key; it belongs to logger"),
        ({"val__zebra": 5}, "val.zebra: unknown key; known here: val_freq"),
        ({"network_g__num_faet": 5}, "network_g.num_faet: unknown key"),
        ({"network_g__type": "EDVR"}, "given 'EDVR', allowed: SwinIR"),
        ({"network_d__type": "StyleGAN2"}, "allowed: UNetDiscriminatorSN"),
        ({"datasets__train__gt_size": 128}, "given 128, but gt_size at the top of the file is 256"),
        ({"gt_size": ..., "datasets__train__gt_size": ...}, "gt_size is missing, at the top"),
        ({"gt_size": 252, "datasets__train__gt_size": 252}, "252 is no multiple of 8"),
        ({"high_order_degradation": False}, "high_order_degradation is false; take PairedImageDataset"),
        ({"high_order_degradation": "no"}, "given 'no', allowed: true or false"),
        (
            {"datasets__train__type": "PairedImageDataset", "datasets__train__dataroot_lq": "lq"},
            "for pairs set high_order_degradation: false",
        ),
        ({"datasets__train__type": "SingleImageDataset"}, "it has no clean pictures to train on"),
        ({"datasets__train__type": "REDSDataset"}, "video is not trained here"),
        ({"datasets__train__type": "Fancy"}, "given 'Fancy', not supported; supported: RealESRGANDataset"),
        ({"datasets__val__type": "RealESRGANDataset"}, "a validation set needs pairs"),
        ({"datasets__vall": {"type": "PairedImageDataset"}}, "data sets are called train, val"),
        ({"datasets__train__io_backend__type": "memcached"}, "type 'memcached' is not supported"),
        ({"datasets__train__io_backend__type": "lmdb"}, "whose folders end in .lmdb"),
        ({"datasets__train__io_backend__typo": "disk"}, "unknown key 'typo'; io_backend has type alone"),
        ({"datasets__train__mean": [0.5, 0.5, 0.5]}, "networks here see pictures in [0, 1]"),
        ({"datasets__val__color": "rgb"}, "given 'rgb', allowed: y"),
        ({"datasets__train__dataroot_gt": ...}, "dataroot_gt is missing"),
        ({"datasets__val__dataroot_lq": ...}, "datasets.val: dataroot_lq is missing"),
        ({"datasets__train__batch_size_per_gpu": ...}, "batch_size_per_gpu is missing"),
        ({"datasets__train": ...}, "datasets: train is missing"),
        ({"train__optim_g__type": "Adamax"}, "given 'Adamax', allowed: Adam"),
        ({"train__optim_g__lr": ...}, "lr is missing"),
        ({"train__optim_g": ...}, "optim_g is missing"),
        ({"train__total_iter": ...}, "total_iter is missing"),
        ({"train__scheduler__restarts": [0, 1000]}, "this schedule restarts nowhere here"),
        ({"train__gan_opt": ...}, "gan_opt is missing"),
        (
            {"train__gan_opt__type": "MultiGANLoss"},
            "given 'MultiGANLoss', allowed: GANLoss, MultiScaleGANLoss",
        ),
        (
            {"train__ldl_opt": {"type": "L1Loss"}, "train__ema_decay": 0},
            "train.ldl_opt compares with the averaged",
        ),
        ({"train__pixel_opt__type": "TVLoss"}, "given 'TVLoss', allowed: L1Loss"),
        ({"network_g": ...}, "network_g is missing"),
        ({"network_d": ...}, "network_d is missing"),
        ({"path__ignore_resume_networks": ["network_d"]}, "a resumed run continues all its networks"),
        ({"path__strict_load_g": 1}, "given 1, allowed: true or false"),
        ({"val__metrics__niqe": {"type": "calculate_niqe"}}, "calculate_niqe is not supported"),
        ({"val__metrics__psnr__input_order": "CHW"}, "pictures are HWC here"),
        ({"network_g__scale": 2}, "network_g.scale gives a x2 network, but scale is 4"),
        ({"logger": [1]}, "logger: given [1], a section of keys belongs here"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    assert message in refusal(changed(GAN, **changes))


def test_force_yml_changes_keys_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, FILES[GAN])
    forced = [
        "train:ema_decay=0.9",
        "gt_size = 128",
        "datasets:train:gt_size=128",
        "datasets:train:use_rot=True",
        "resize_prob=[0.1, 0.2, 0.7]",
        "path:pretrain_network_g=None",
        "train.optim_g.lr=5e-5",
    ]
    options = load_run_options(path, ["datasets.train.gt_size=64"], forced)
    assert (options.train.ema_decay, options.train.optim_g.lr) == (0.9, 5e-5)
    assert options.datasets.train.use_rot is True
    assert options.datasets.train.gt_size == 64  # what is given by our names comes last
    assert tuple(options.degradation.resize_prob) == (0.1, 0.2, 0.7)
    assert options.path.pretrain_network_g is None
    assert read_option_file(path).data["gt_size"] == 256


@pytest.mark.parametrize(
    ("forced", "message"),
    [
        ("train:ema=0.9", "train has no key 'ema'; did you mean 'ema_decay'?"),
        ("trian:ema_decay=0.9", "the top level has no key 'trian'; did you mean 'train'?"),
        ("scale:up=2", "scale has no key 'up'"),
        ("train:ema_decay", "write key:sub=value"),
        ("train:ema_decay=2", "(with --force_yml train:ema_decay=2)"),
        ("name=!!python/object/apply:os.getcwd []", "!!python"),
        ("resize_prob=[__import__('os')", "resize_prob"),
    ],
)
def test_what_force_yml_cannot_do(forced: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_run_options(write(tmp_path, FILES[GAN]), [], [forced])
    assert message in str(caught.value)


def test_the_further_losses_are_carried_over() -> None:
    options = load_run_options(
        changed(
            GAN,
            train__ldl_opt={"type": "L1Loss", "loss_weight": 2.0, "reduction": "mean"},
            train__gan_opt__type="MultiScaleGANLoss",
            train__pixel_opt__type="WeightedTVLoss",
            train__r1_reg_weight=10,
            train__net_d_reg_every=8,
        )
    )
    train = options.train
    assert train.ldl_opt is not None and (train.ldl_opt.type, train.ldl_opt.loss_weight) == ("L1Loss", 2.0)
    assert train.gan_opt is not None and train.gan_opt.type == "MultiScaleGANLoss"
    assert train.pixel_opt is not None and train.pixel_opt.type == "WeightedTVLoss"
    assert (options.objective.r1_reg_weight, options.objective.net_d_reg_every) == (10, 8)
    off = changed(GAN, train__ldl_opt={"type": "L1Loss", "loss_weight": 0})
    assert load_run_options(off).train.ldl_opt is None and "loss_weight is 0" in notes_of(off)


def test_a_model_without_a_loss_is_refused() -> None:
    assert "no loss: give pixel_opt or perceptual_opt" in refusal(changed(NET, train__pixel_opt=...))


def test_an_x2_rrdbnet_needs_its_scale() -> None:
    message = refusal(changed("train_realesrnet_x2plus", network_g__scale=...))
    assert "network_g.scale gives a x4 network, but scale is 2" in message


def test_a_mistake_is_shown_where_it_was_written(tmp_path: Path) -> None:
    """Mistakes that our own schema finds are named by the file's line and its own key."""
    path = write(tmp_path, changed(GAN, train__optim_g__lr=-1, noise_range=[3, 1]))
    lines = path.read_text().splitlines()
    rate = next(place for place, text in enumerate(lines, 1) if "lr: -1" in text)
    with pytest.raises(UserError) as caught:
        load_run_options(path)
    assert f"{path}:{rate} (train.optim_g): train.optim_g.lr: given -1" in str(caught.value)
    assert "noise_range must be [low, high]" in str(caught.value)


# -------------------------------------------------------------------- values that mean something else here


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"datasets__train__use_shuffle": False}, "given false, does nothing: always shuffled"),
        ({"datasets__train__dataset_enlarge_ratio": 100}, "given 100, does nothing: epochs are only counted"),
        (
            {"datasets__train__prefetch_mode": "cuda"},
            "given 'cuda', does nothing: batches are always prepared",
        ),
        ({"datasets__train__num_prefetch_queue": 3}, "each worker prepares two batches"),
        ({"find_unused_parameters": True}, "does nothing: the networks here have no unused parameters"),
        ({"cudnn_benchmark": True}, "does nothing: PyTorch's own choice"),
        ({"manual_seed": ...}, "manual_seed is left out: 0, and saved"),
        ({"num_gpu": 4}, "torchrun --nproc_per_node=4"),
        ({"resize_prob": ..., "sinc_prob2": ...}, None),
        ({"resize_prob": ..., "datasets__train__sinc_prob2": ...}, "resize_prob, sinc_prob2: left out"),
        ({"gt_size": ...}, "counts only at the top of the file for BasicSR"),
        ({"datasets__train__meta_info": ...}, "all pictures below dataroot_gt are taken"),
        ({"datasets__train__dataroot_lq": "x"}, "type RealESRGANDataset does not read it"),
        ({"datasets__train__filename_tmpl": "{}x2"}, "type RealESRGANDataset has no lq files"),
        ({"datasets__val__gt_size": 256}, "whole pictures are measured, in order"),
        ({"datasets__test_1": {"type": "PairedImageDataset"}}, "does nothing in training: atelier evaluate"),
        (
            {"datasets__val_2": {"type": "SingleImageDataset", "dataroot_lq": "x"}},
            "no clean pictures to measure",
        ),
        ({"train__pixel_opt__loss_weight": 0}, "train.pixel_opt: left out: loss_weight is 0"),
        ({"train__perceptual_opt__perceptual_weight": 0}, "perceptual_weight and style_weight are 0"),
        ({"train__optim_d": ...}, "optim_d is left out"),
        ({"train__scheduler": ...}, "the rate is constant"),
        ({"val__metrics": ...}, "PSNR and SSIM are measured"),
        ({"val__suffix": "x", "val__pbar": True}, "val.suffix: does nothing: saved pictures are named"),
        ({"path__results_root": "x"}, "atelier restore -o"),
    ],
)
def test_what_is_different_is_told(changes: dict[str, Any], note: str | None) -> None:
    if note is None:
        changes = {"resize_prob": ...}
        note = "resize_prob: left out, which BasicSR cannot run with; the published values"
    data = changed(GAN, **changes)
    assert note in notes_of(data)
    load_run_options(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"datasets__train__use_shuffle": True, "datasets__train__prefetch_mode": None},
        {"datasets__train__mean": [0, 0, 0], "datasets__train__std": [1.0, 1.0, 1.0]},
        {"datasets__val__filename_tmpl": "{}", "path__ignore_resume_networks": []},
        {"train__scheduler__restarts": [0], "train__scheduler__restart_weights": [1]},
        {"val__metrics__psnr__input_order": "HWC", "auto_resume": False, "queue_size": 200},
    ],
)
def test_usual_values_need_no_word(changes: dict[str, Any]) -> None:
    assert notes_of(changed(GAN, **changes)) == notes_of(FILES[GAN])


def test_pairs_lmdb_and_names(tmp_path: Path) -> None:
    data = changed(
        PAIRS,
        model_type="SRModel",
        datasets__train__type="PairedImageDataset",
        datasets__train__dataroot_gt="gt.lmdb",
        datasets__train__dataroot_lq="lq.lmdb",
        datasets__train__io_backend={"type": "lmdb"},
        datasets__train__meta_info=...,
        datasets__train__meta_info_file="names.txt",
        datasets__train__filename_tmpl="{}x4",
        datasets__train__color="y",
    )
    train = tree_of(data)["datasets"]["train"]
    assert "meta_info" not in train
    assert "datasets.train.meta_info_file: does nothing: an LMDB holds its own list" in notes_of(data)
    assert (train["filename_tmpl"], train["grey_from"], train["convert_channels"]) == ("{}x4", "y", True)
    data["datasets"]["train"] |= {"io_backend": {"type": "disk"}, "dataroot_gt": "gt", "dataroot_lq": "lq"}
    assert tree_of(data)["datasets"]["train"]["meta_info"] == "names.txt"


def test_where_weights_come_from() -> None:
    def path_of(**changes: Any) -> dict[str, Any]:
        return dict(tree_of(changed(GAN, **changes))["path"])

    assert path_of() == {"pretrain_network_g": "models/net_g.pth", "param_key_d": "params"}
    # BasicSR's default entry is params; its average begins with params_ema all the same.
    plain = {"pretrain_network_g": "models/net_g.pth", "param_key_g": "params", "param_key_d": "params"}
    assert path_of(path__param_key_g=...) == plain | {"pretrain_network_ema": "models/net_g.pth"}
    assert path_of(path__param_key_g=..., train__ema_decay=0) == plain
    given = path_of(path__pretrain_network_d="d.pth", path__strict_load_d=False, path__strict_load_g=False)
    assert (given["pretrain_network_d"], given["param_key_d"]) == ("d.pth", "params")
    assert (given["load"], given["load_d"]) == ("flexible", "flexible")
    assert path_of(auto_resume=True)["resume"] == "auto"
    resumed = path_of(path__resume_state="a/5.state", path__experiments_root="runs")
    assert (resumed["resume_state"], resumed["experiments_root"]) == ("a/5.state", "runs")


def test_schedules() -> None:
    restart = {"type": "CosineAnnealingRestartLR", "periods": [5], "restart_weights": [1], "eta_min": 1e-7}
    assert tree_of(changed(GAN, train__scheduler=restart))["train"]["scheduler"] == restart
    steps = {"type": "MultiStepRestartLR", "milestones": [5], "gamma": 0.5}
    assert load_run_options(changed(GAN, train__scheduler=steps)).train.scheduler.type == "MultiStepLR"


# -------------------------------------------------------------------- no key passes unseen


def _leaves(data: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key)


def _other(value: Any) -> Any:
    """Another value of the same kind: one that cannot be taken for the old one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 2 + 3
    if isinstance(value, list):
        return value[:-1]
    return "something else"


def _answered(data: dict[str, Any], base: dict[str, Any]) -> bool:
    """Whether a difference between two files shows: in the options, in the notes, or as a mistake."""

    def outcome(each: dict[str, Any]) -> tuple[str, list[str]]:
        try:
            options = load_run_options(copy.deepcopy(each))
        except UserError as error:
            return str(error), []
        return options.model_dump_json(), options.warnings()

    return outcome(data) != outcome(base)


@pytest.mark.parametrize("name", [NET, GAN, PAIRS])
def test_a_changed_value_always_shows(name: str) -> None:
    silent = {"port", "type"}
    for leaf in _leaves(FILES[name]):
        if leaf[-1] in silent or leaf == ("num_gpu",):
            continue
        data = copy.deepcopy(FILES[name])
        holder: Any = data
        for part in leaf[:-1]:
            holder = holder[part]
        holder[leaf[-1]] = _other(holder[leaf[-1]])
        assert _answered(data, FILES[name]), leaf


@pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{key.section}.{key.name}")
@pytest.mark.parametrize("name", [NET, PAIRS])
def test_every_key_of_the_table_is_mapped_or_named(name: str, key: Any) -> None:
    """A key put into a file where it has no use is named with the reason; none passes unseen."""
    data = copy.deepcopy(FILES[name])
    holder = data["datasets"]["train"] if key.section == "datasets" else data
    holder = data.setdefault(key.section, {}) if key.section not in ("", "datasets") else holder
    if key.name in holder:
        return
    values = {"auto_resume": True, "mean": [7], "std": [7], "ignore_resume_networks": ["x"]}
    holder[key.name] = values.get(key.name, 7)
    assert _answered(data, FILES[name])


def test_without_the_last_look_a_key_would_pass_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    data = changed(GAN, find_unused_parameters=True)
    assert _answered(data, FILES[GAN])
    monkeypatch.setattr(Conversion, "finish", lambda self: None)
    assert not _answered(data, FILES[GAN])


def test_every_key_that_is_read_stands_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[tuple[str, str]] = set()

    def collect(conversion: Conversion) -> None:
        for path in conversion._read:
            if path[0] == "datasets" and len(path) == 2:
                continue
            section = "datasets" if path[0] == "datasets" and path[1:] else str(path[0]) if path[1:] else ""
            read.add((section, str(path[-1])))

    monkeypatch.setattr(Conversion, "finish", collect)
    for name in FILES:
        tree_of(FILES[name])
    assert [place for place in sorted(read) if TABLE.find(*place) is None] == []


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=12))
def test_no_strange_key_is_ever_ignored(key: str) -> None:
    if TABLE.find("", key) is not None or TABLE.find("train", key) is not None:
        return
    for section in ("", "train__"):
        assert f"{key}: unknown key" in refusal(changed(NET, **{f"{section}{key}": 1}))


def test_the_file_itself_is_left_alone() -> None:
    data = copy.deepcopy(FILES["finetune_realesrgan_x4plus_pairdata"])
    data["model_type"], data["datasets"]["train"]["type"] = "ESRGANModel", "PairedImageDataset"
    before = copy.deepcopy(data)
    load_run_options(data, ["train.gan_opt.loss_weight=7"])
    assert data == before


def test_overrides_go_by_our_names(tmp_path: Path) -> None:
    path = write(tmp_path, FILES[GAN])
    options = load_run_options(path, ["train.perceptual_opt=~", "degradation.jpeg_range=[50, 60]"])
    assert isinstance(options, RunOptions)
    assert options.train.perceptual_opt is None
    assert options.model_dump()["degradation"]["jpeg_range"] == [50, 60]


# -------------------------------------------------------------------- command and page


def test_convert_and_check_take_a_basicsr_file(tmp_path: Path) -> None:
    path = write(tmp_path, FILES[GAN])
    runner = CliRunner()
    result = runner.invoke(app, ["convert", str(path), "train.total_iter=500000"])
    assert result.exit_code == 0
    assert "model_type" not in result.stdout
    assert "objective:\n  type: gan" in result.stdout
    assert "dist_params.port: does nothing" in result.stderr
    checked = runner.invoke(app, ["check", str(path)])
    assert f"{path}: OK" in checked.stdout


def test_check_counts_the_names_and_sees_a_subset_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The document's tools write ``DF2K_subset``, its option file reads ``DF2K``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "datasets/DF2K/meta_info").mkdir(parents=True)
    (tmp_path / "datasets/DF2K/meta_info/meta_info_DF2K.txt").write_text("a.png (480,480,3)\n\nb c.png\n")
    result = CliRunner().invoke(app, ["check", str(DOCUMENT)])
    assert "datasets/DF2K (2 names in meta_info_DF2K.txt)" in result.stdout
    assert "lies beside it" not in result.stdout
    (tmp_path / "datasets/DF2K_subset").mkdir()
    again = CliRunner().invoke(app, ["check", str(DOCUMENT)])
    assert "DF2K_subset lies beside it: datasets.train.dataroot_gt=datasets/DF2K_subset" in again.stdout


def test_the_page_holds_the_table() -> None:
    assert TABLE.markdown() in (REPOSITORY / "docs" / "from-basicsr.md").read_text()
