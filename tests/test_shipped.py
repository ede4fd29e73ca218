"""Every option file that ships is checked and run; the README's commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from atelier.options.read import load_run_options
from support import REPOSITORY

#: A file of Real-ESRGAN's own kind, shipped as it was written for that program.
BASICSR = "finetune_small_realesr_animevideox2v3"
#: Files of `atelier experiment`, which are no run's; tests/experiment/test_shipped_studies.py has them.
STUDIES = REPOSITORY / "options" / "experiments"
#: Files of runs on films; tests/train/test_colorize_run.py has them.
FILMS = REPOSITORY / "options" / "colorize"
FILES = sorted(
    path for path in (REPOSITORY / "options").rglob("*.yml") if path.parent not in (STUDIES, FILMS)
)


def stated_variants(options_file: Path) -> list[list[str]]:
    """The overrides that a template's comments offer: lines indented by three, variants of a line apart by six.

    A line that begins with ``train.`` goes on where the one before ended.
    """
    variants: list[list[str]] = []
    for line in options_file.read_text().splitlines():
        if not re.match(r"#   \S", line) or line.startswith("#   atelier"):
            continue
        groups = [shlex.split(group) for group in re.split(r" {6,}", line[4:])]
        if line.startswith("#   train."):
            variants[-1] += groups[0]
        else:
            variants += groups
    return variants


VARIANTS = [
    pytest.param(path, overrides, id=f"{path.stem}-{' '.join(overrides)[:60]}")
    for path in FILES
    for overrides in stated_variants(path)
]


def bundled(options_file: Path, root: Path, given: list[str] | None = None) -> list[str]:
    """Overrides that point a shipped file at the bundled photographs and make its networks small enough for a test."""
    options = load_run_options(options_file, given or [])
    grey = options.network_g.in_channels == 1
    train = "[camera, coffee]" if grey else "[coffee, rocket]"
    val = "[coins]" if grey else "[chelsea]"
    overrides = [
        *(given or []),
        f"path.experiments_root={root}",
        "datasets.train.dataroot_gt=bundled",
        "datasets.val.dataroot_gt=bundled",
        f"datasets.train.pictures={train}",
        f"datasets.val.pictures={val}",
        "datasets.train.batch_size_per_gpu=2",
        f"datasets.train.gt_size={2 * (7 if options.network_g.size_multiple == 7 else 8) * options.scale}",
        "datasets.train.num_worker_per_gpu=0",
        "val.tile=64",
    ]
    for part in ("train", "val"):
        if getattr(options.datasets, part).dataroot_lq is not None:
            overrides += [f"datasets.{part}.dataroot_lq=~", f"datasets.{part}.filename_tmpl='{{}}'"]
        if getattr(options.datasets, part).meta_info is not None:
            overrides.append(f"datasets.{part}.meta_info=~")
    if options.train.perceptual_opt is not None:
        overrides.append("train.perceptual_opt=~")
    if options.path.pretrain_network_g is not None:
        overrides.append("path.pretrain_network_g=~")
    if options.network_d is not None:
        overrides.append("network_d.num_feat=8")
    if getattr(options.objective, "teacher", ()):
        overrides += [
            f"distill.teacher.0.weights={tiny_teacher(root, options.scale)}",
            "distill.teacher.0.quality_check=off",
        ]
    if options.objective.begins_as is not None:
        # A network that knows nothing is no start, but may be a control's.
        overrides += [
            f"distill.teacher.0.weights={tiny_teacher(root, options.scale, options.network_g.type)}",
            "distill.random_teacher=[start]",
        ]
    if options.network_g.type == "SwinIR":
        overrides += ["network_g.embed_dim=12", "network_g.depths=[2]", "network_g.num_heads=[2]"]
    return overrides


def tiny_teacher(folder: Path, scale: int, kind: str = "SwinIR") -> Path:
    """A weight file of a network that knows nothing: a SwinIR with two residual groups, or another ``kind``."""
    import torch

    from atelier.archs import SRVGGNetCompact, save_weights
    from atelier.archs.swinir_options import SwinIROptions

    torch.manual_seed(1)
    path = folder / "teacher.pth"
    if kind == "SRVGGNetCompact":
        net = SRVGGNetCompact(num_feat=14, num_conv=4, upscale=scale)
        told = {"arch": kind, "options": net.options.model_dump(mode="json", exclude={"type"})}
        save_weights(path, {"params": net.state_dict()}, told)
        return path
    options = SwinIROptions(
        embed_dim=8,
        depths=(1, 1),
        num_heads=(2, 2),
        window_size=8,
        mlp_ratio=2,
        upscale=scale,
        upsampler="pixelshuffle",
    )
    metadata = {"arch": "SwinIR", "options": options.model_dump(mode="json", exclude={"type"})}
    save_weights(path, {"params": options.build().state_dict()}, metadata)
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_option_file_runs(path: Path, tmp_path: Path) -> None:
    from atelier.train.debug import debug_run

    text = debug_run(load_run_options(path, bundled(path, tmp_path)))
    assert "resumes" in text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_swinir_templates_are_of_one_screen_and_offer_variants(path: Path) -> None:
    if path.parent.name == "swinir":
        assert len(path.read_text().splitlines()) <= 60
        small = [each for each in stated_variants(path) if "datasets.train.batch_size_per_gpu=1" in each]
        assert len(small) == 1
        train = load_run_options(path, small[0]).datasets.train
        # Whole windows, and far less work than the file asks for as written.
        options = load_run_options(path)
        assert train.gt_size % (options.scale * options.network_g.size_multiple) == 0
        assert train.gt_size <= options.datasets.train.gt_size // 2


@pytest.mark.parametrize(("path", "overrides"), VARIANTS)
def test_what_the_comments_offer_is_valid(path: Path, overrides: list[str]) -> None:
    options = load_run_options(path, overrides)
    assert options.warnings() == []
    assert options != load_run_options(path)
    options.effective_degradation.build(options.scale)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "overrides"),
    [v for v in VARIANTS if not any("pretrain_network_g" in each for each in v.values[1])],
)
def test_what_the_comments_offer_runs(path: Path, overrides: list[str], tmp_path: Path) -> None:
    from atelier.train.debug import debug_run

    assert "resumes" in debug_run(load_run_options(path, bundled(path, tmp_path, overrides)))


#: Template, overrides, number of the official network's parameters (with position bias tables).
OFFICIAL = [
    ("classical", ["scale=2"], 11_752_487),
    ("classical", ["scale=3"], 11_937_127),
    ("classical", [], 11_900_199),
    ("classical", ["scale=8"], 12_047_911),
    ("lightweight", ["scale=2"], 910_152),
    ("lightweight", ["scale=3", "datasets.train.gt_size=192"], 918_267),
    ("lightweight", [], 929_628),
    ("real_m", ["scale=2"], 11_678_631),
    ("real_m", [], 11_715_559),
    ("real_l", [], 28_013_059),
    ("denoise_grey", [], 11_497_681),
    ("denoise_color", [], 11_504_163),
    ("jpeg_grey", [], 11_485_585),
    ("jpeg_color", [], 11_492_067),
]


@pytest.mark.parametrize(("name", "overrides", "parameters"), OFFICIAL)
def test_templates_hold_the_official_networks(name: str, overrides: list[str], parameters: int) -> None:
    import torch

    options = load_run_options(REPOSITORY / "options" / "swinir" / f"{name}.yml", overrides).network_g
    with torch.device("meta"):
        net = options.build()
    assert sum(tensor.numel() for tensor in net.parameters()) == parameters
    assert options.img_range == (255 if name.startswith("jpeg") else 1)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_option_file_has_no_warnings(path: Path) -> None:
    warnings = load_run_options(path).warnings()
    if path.stem != BASICSR:
        known = ["network_g.extra_residual"] if "v2" in path.stem else []
        assert [warning.partition(":")[0] for warning in warnings] == known
        return
    port, milestone, pool = warnings
    assert "dist_params.port: does nothing: torchrun chooses the port" in port
    assert "milestone 200000 is not before total_iter 200000" in milestone
    assert "degradations are drawn per sample, so the pool is not needed" in pool


def test_the_gan_template_spoils_pictures_as_the_readme_says() -> None:
    """Without the line lq would be plain bicubic, and the network would learn to undo that alone."""
    readme = (REPOSITORY / "README.md").read_text()
    assert "degradations are Real-ESRGAN's" in readme
    options = load_run_options(REPOSITORY / "options" / "finetune_gan_x2.yml")
    assert options.effective_degradation.type == "realesrgan"


def test_readme_names_only_commands_that_exist() -> None:
    from typer.main import get_command

    from atelier.cli.main import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    named = set(re.findall(r"^\s*atelier ([a-z-]+)", (REPOSITORY / "README.md").read_text(), re.MULTILINE))
    assert named
    assert named <= set(commands)


def test_readme_names_only_files_that_exist() -> None:
    text = (REPOSITORY / "README.md").read_text()
    for name in re.findall(r"(?<![\w/])options/[\w/]+\.\w+", text):
        assert (REPOSITORY / name).exists(), name


@pytest.mark.slow
def test_the_demo_beats_bicubic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from atelier.demo import run_demo

    monkeypatch.chdir(tmp_path)
    result = run_demo()
    assert result.exit_code == 0, result.text
    assert (tmp_path / "experiments/demo/restored/astronaut_x2.png").exists()


def test_the_demo_says_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from atelier.demo import run_demo

    monkeypatch.chdir(tmp_path)
    result = run_demo(["train.total_iter=2", "val.val_freq=2", "logger.use_tb_logger=false"])
    assert result.exit_code == 1
    assert "FAILED: the trained model does not beat bicubic on: astronaut, chelsea" in result.text
