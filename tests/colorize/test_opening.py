"""From names on the command line to a colorizer, and the messages where something is missing."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from atelier.archs.fusion import SimpleFusionNet
from atelier.archs.weights import save_weights
from atelier.colorize import FusionSystemOptions
from atelier.colorize.opening import UNTRAINED, WeightFiles, open_system
from atelier.errors import UserError


def test_without_weights_it_is_always_the_same() -> None:
    first, second = open_system(WeightFiles()), open_system(WeightFiles())
    assert first.digest == second.digest and first.notes == (UNTRAINED,)
    assert set(first.parts) == {"flow", "exemplar", "fusion"}
    assert not first.system.training and not any(p.requires_grad for p in first.system.parameters())


def test_nobodys_numbers_shift() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    open_system(WeightFiles())
    assert torch.equal(torch.rand(2), expected)


def test_a_model_file(tmp_path: Path) -> None:
    options = FusionSystemOptions()
    system = options.build()
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.01)
    metadata = {"arch": options.type, "options": options.model_dump(mode="json", exclude={"type"})}
    path = tmp_path / "net_g.pth"
    save_weights(path, {"params": system.state_dict()}, metadata)
    opened = open_system(WeightFiles(model=path))
    assert opened.notes == () and "unet" in opened.parts["fusion"] and "net_g.pth" in opened.parts["fusion"]
    for key, value in system.state_dict().items():
        assert torch.equal(opened.system.state_dict()[key], value)
    state = system.state_dict()
    state["fusion.wrong"] = state.pop("fusion.out.weight")
    save_weights(tmp_path / "wrong.pth", {"params": state}, metadata)
    with pytest.raises(UserError, match=r"fusion\.out\.weight[\s\S]*fusion\.wrong"):
        open_system(WeightFiles(model=tmp_path / "wrong.pth"))


def test_a_fusion_network_alone(tmp_path: Path) -> None:
    net = SimpleFusionNet()
    save_weights(tmp_path / "fusion.pth", {"params": net.state_dict()}, {})
    opened = open_system(WeightFiles(fusion=tmp_path / "fusion.pth"))
    assert opened.parts["fusion"] == f"simple, weights of {tmp_path}/fusion.pth" and opened.notes == ()
    with pytest.raises(UserError, match="holds no colorizer"):
        open_system(WeightFiles(model=tmp_path / "fusion.pth"))


def test_an_older_checkpoint_tells_what_it_cannot_use(tmp_path: Path) -> None:
    from atelier.archs.swintexco_warp import WarpNet

    states = {"fusion_unet": SimpleFusionNet().state_dict(), "swintexco_nonlocal": WarpNet().state_dict()}
    torch.save(states, tmp_path / "seed.pth")
    opened = open_system(WeightFiles(fusion=tmp_path / "seed.pth"))
    assert len(opened.notes) == 1 and "not used with --exemplar tiny" in opened.notes[0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"model": "none.pth"}, "-m none.pth does not exist"),
        ({"swintexco": "none"}, "--swintexco_ckpt none does not exist"),
        ({"model": __file__, "fusion": __file__}, "-m is a whole system; leave --fusion_ckpt out"),
        ({"memflow": __file__, "flow": "dis"}, "--memflow_ckpt belongs to --flow memflow, not to --flow dis"),
        ({"swintexco": ".", "exemplar": "tiny"}, "belong to --exemplar swintexco, not to --exemplar tiny"),
        ({"flow": "liteflow"}, "unknown flow 'liteflow'"),
        ({"exemplar": "timy"}, "did you mean 'tiny'"),
        ({"fusion": "."}, r"--fusion_ckpt \. is no file"),
        ({"swintexco": __file__}, "is no folder"),
    ],
)
def test_names_that_do_not_fit(files: dict[str, Any], message: str) -> None:
    given = {key: Path(value) if key not in ("flow", "exemplar") else value for key, value in files.items()}
    with pytest.raises(UserError, match=message):
        WeightFiles(**given).check()


def test_a_matching_network_without_weights(tmp_path: Path) -> None:
    (tmp_path / "backbone.pth").write_bytes(b"")
    with pytest.raises(UserError, match="matching network has no weights"):
        open_system(WeightFiles(backbone=tmp_path / "backbone.pth"))


@pytest.mark.slow
def test_a_missing_backbone_is_told_at_once(tmp_path: Path) -> None:
    """One message with three remedies, exit code 2, before torch is loaded."""
    from colorize.grey_films import clip, folder, grey, picture

    source = folder(tmp_path / "in", [grey(frame) for frame in clip("chelsea", 3)])
    reference = picture(tmp_path / "cat.png", clip("chelsea", 3)[0])
    began = time.monotonic()
    result = subprocess.run(
        [
            *(sys.executable, "-m", "atelier", "colorize", "-i", source, "--reference", reference),
            *("-o", tmp_path / "out", "--exemplar", "swintexco"),
        ],
        capture_output=True,
        text=True,
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "PATH": ""},
    )
    assert time.monotonic() - began < 60, (
        "hung"
    )  # a bound against hanging; how fast it is, is no test's business
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    for remedy in ("backbone_weights: FILE", "timm's cache", "exemplar: tiny"):
        assert remedy in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_default_path_needs_no_timm() -> None:
    code = (
        "import sys; sys.modules['timm'] = None\n"
        "from atelier.colorize.opening import WeightFiles, open_system\n"
        "print(open_system(WeightFiles()).parts['exemplar'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "tiny" in result.stdout, result.stderr


def test_the_command_line_loads_no_torch() -> None:
    code = (
        "import atelier.cli.main, atelier.colorize.opening, atelier.colorize.reference_files, sys\n"
        "atelier.colorize.opening.WeightFiles().check()\n"
        "print([name for name in ('torch', 'cv2', 'av', 'timm') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
