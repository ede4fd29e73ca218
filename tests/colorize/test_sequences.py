"""The older programs' way to call the system: lists of frames, PIL references, the loop of their guide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import atelier
from atelier.archs.fusion import SimpleFusionNet, UNetFusionNet
from atelier.colorize import Anchor, FusionSystem, References
from atelier.errors import UserError
from atelier.images.lab import LabScale, lab_to_rgb, rgb_to_lab
from colorize.films import film, lively, small_system


def pil(lab: Tensor) -> Image.Image:
    rgb = lab_to_rgb(LabScale.UNIT.restore(lab))
    return Image.fromarray((rgb * 255).round().byte().permute(1, 2, 0).numpy())


def lab_of(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
    return LabScale.UNIT.normalise(rgb_to_lab(pixels))


@pytest.fixture(scope="module")
def system() -> FusionSystem:
    torch.manual_seed(0)
    return lively(small_system(UNetFusionNet(8))).eval()


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return film(1, 4)


def count_encoded(system: FusionSystem, monkeypatch: pytest.MonkeyPatch) -> list[References]:
    seen: list[References] = []
    prepare = system.exemplar.prepare
    monkeypatch.setattr(system.exemplar, "prepare", lambda given: (seen.append(given), prepare(given))[1])
    return seen


def test_lists_batches_and_forward_agree(system: FusionSystem, clip: Tensor) -> None:
    image = pil(clip[0, 0])
    batch, flow, confidence = system.forward_sequence(clip, None, image, return_memflow=True)
    assert batch.shape == flow.shape == (1, 4, 3, 24, 32) and confidence.shape == (1, 4, 1, 24, 32)
    listed = system.forward_sequence(list(clip[0]), ["ignored"], image, True)
    over_frames = system.forward_sequence(list(clip.unbind(1)), None, [image])
    for t in range(4):
        assert [tuple(part[t].shape) for part in listed] == [(3, 24, 32), (3, 24, 32), (1, 24, 32)]
        assert torch.equal(listed[0][t], batch[0, t]) and torch.equal(listed[1][t], flow[0, t])
        assert torch.equal(listed[2][t], confidence[0, t])
        assert torch.equal(over_frames[t], batch[:, t])
    out = system(clip[:, :, :1], References(lab_of(image)[None, None], ("exemplar",)))
    torch.testing.assert_close(batch[:, :, 1:], out.ab, atol=1e-6, rtol=0)
    assert torch.equal(batch[:, :, :1], clip[:, :, :1])
    torch.testing.assert_close(flow[:, :, 1:], out.flow_ab, atol=1e-6, rtol=0)


def test_pictures_and_tensors_are_the_same_reference(system: FusionSystem, clip: Tensor) -> None:
    image = pil(clip[0, 0])
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
    expected = system.forward_sequence(clip, None, image)
    assert torch.equal(system.forward_sequence(clip, None, tensor), expected)
    assert torch.equal(system.forward_sequence(clip, None, [tensor[None]]), expected)
    palette = image.convert("RGBA")
    assert torch.equal(system.forward_sequence(clip, None, palette), expected)


def test_a_reference_for_each_frame_counts_there_and_is_encoded_once(
    system: FusionSystem, clip: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = count_encoded(system, monkeypatch)
    one, other = pil(clip[0, 0]), pil(-clip[0, 2])
    given = [one, pil(clip[0, 0]), other, one]
    mixed = system.forward_sequence(clip, None, given)
    assert len(seen) == 2
    alone = system.forward_sequence(clip, None, one)
    assert torch.equal(mixed[:, :2], alone[:, :2]) and not torch.equal(mixed[:, 2], alone[:, 2])


def test_large_references_are_made_smaller(
    system: FusionSystem, clip: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = count_encoded(system, monkeypatch)
    system.forward_sequence(clip, None, pil(clip[0, 0]).resize((320, 120)))
    system.forward_sequence(clip, None, pil(clip[0, 0]).resize((20, 16)))
    assert [tuple(references.lab.shape[-2:]) for references in seen] == [(24, 64), (16, 20)]


def test_every_call_begins_anew_unless_a_state_is_given(system: FusionSystem, clip: Tensor) -> None:
    image = pil(clip[0, 0])
    whole = system.forward_sequence(clip, None, image)
    assert torch.equal(system.forward_sequence(clip, None, image), whole)
    first = system.forward_sequence(clip[:, :2], None, image)
    second = system.forward_sequence(clip[:, 2:], None, image, state=system.state)
    assert torch.equal(torch.cat([first, second], 1), whole)
    assert system.state is not None and system.state.frame == 4
    system.reset_memory()
    assert system.state is None


def test_references_with_roles(system: FusionSystem, clip: Tensor) -> None:
    out = system.forward_sequence(clip, references=References(clip[:, 1:2], (Anchor(1),)))
    assert torch.equal(out[:, 1], clip[:, 1])


def test_what_does_not_fit_is_named(system: FusionSystem, clip: Tensor) -> None:
    image = pil(clip[0, 0])
    for frames, given, message in (
        (clip, None, "one of the two"),
        (clip, [image] * 3, "4 frames need one reference or 4, given 3"),
        (clip, [], "given 0"),
        (clip, "picture.png", "given 11|not str"),
        (clip, clip[0, 0] * 2, r"RGB in \[0, 1\]"),
        (clip, clip[0, 0, :1], "RGB floats"),
        (clip, torch.rand(3, 3, 8, 8), "1 clips and a reference of 3"),
        (clip[0], image, "frames_lab must be"),
        ([], image, "no frames"),
        ([clip[0, 0], clip[0, 1, :, :8]], image, "all of one size"),
    ):
        with pytest.raises(UserError, match=message):
            system.forward_sequence(frames, None, given)
    with pytest.raises(UserError, match="one of the two"):
        system.forward_sequence(clip, None, image, references=References(clip[:, :1], ("exemplar",)))


def guide_loop(system: FusionSystem, optimizer: Any, batch: dict[str, Any], steps: int) -> list[float]:
    criterion = atelier.FusionLoss()
    losses = []
    for _ in range(steps):
        frames_lab, frames_pil, references_pil = (
            batch[name] for name in ("frames_lab", "frames_pil", "references_pil")
        )
        system.reset_memory()
        outputs, memflow_outputs, memflow_confs = system.forward_sequence(
            frames_lab, frames_pil, references_pil, return_memflow=True
        )
        assert len(memflow_confs) == len(outputs)
        loss = criterion(outputs, frames_lab, memflow_outputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.filterwarnings("ignore:FusionLoss")
@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("listed", [False, True])
def test_the_training_loop_of_the_guide(groups: bool, listed: bool, clip: Tensor) -> None:
    torch.manual_seed(0)
    system = small_system(SimpleFusionNet()).train()
    if groups:
        found = system.get_parameter_groups()
        assert [group["name"] for group in found] == ["swintexco", "fusion"]
        optimizer = torch.optim.Adam([{**found[0], "lr": 1e-5}, {**found[1], "lr": 1e-4}])
    else:
        optimizer = torch.optim.Adam(system.parameters(), lr=1e-4)
    frames = list(clip[0]) if listed else clip
    batch = {"frames_lab": frames, "frames_pil": None, "references_pil": [pil(clip[0, 0])]}
    losses = guide_loop(system, optimizer, batch, 6)
    assert losses[-1] < losses[0]


def test_groups_hold_what_learns_and_nothing_else(clip: Tensor) -> None:
    system = small_system(SimpleFusionNet())
    groups = system.get_parameter_groups()
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in system.parameters() if p.requires_grad)
    assert sum(p.numel() for p in groups[0]["params"]) == 23_457
    assert sum(p.numel() for p in groups[1]["params"]) == 16_114
    assert small_system().get_parameter_groups()[1]["params"] == []
    torch.optim.Adam(small_system().get_parameter_groups())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:FusionLoss")
def test_the_guide_with_stand_ins_for_the_published_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("timm")
    from atelier.archs.memflow_options import MemFlowOptions
    from atelier.colorize.matcher_options import SwinTExCoOptions

    torch.manual_seed(0)
    torch.save(MemFlowOptions().build().state_dict(), tmp_path / "memflow.pth")
    matcher = SwinTExCoOptions(allow_random_backbone=True).build()
    folder = tmp_path / "swintexco"
    folder.mkdir()
    for name in ("embed_net", "nonlocal_net"):
        torch.save(getattr(matcher, name).state_dict(), folder / f"{name}.pth")
    common: dict[str, Any] = {"memflow_path": "MemFlow", "swintexco_path": "SwinTExCo"}
    common["memflow_ckpt"] = tmp_path / "memflow.pth"
    with pytest.warns(UserWarning, match="memflow_path and swintexco_path ignored"):
        pretrained = FusionSystem(**common, swintexco_ckpt=folder, fusion_net=SimpleFusionNet())
    with pytest.warns(UserWarning, match="ignored"):
        scratch = FusionSystem(
            **common,
            swintexco_ckpt=None,
            fusion_net=SimpleFusionNet(),
            backbone_weights=folder / "embed_net.pth",
        )
    clip = film(1, 2, 32, 64)
    for system in (pretrained, scratch):
        assert sum(p.numel() for p in system.parameters() if p.requires_grad) == 18_309_629
        assert {key.split(".")[0] for key in system.state_dict()} == {"flow", "exemplar", "fusion"}
        frozen = {
            key: value.clone()
            for key, value in system.state_dict().items()
            if key.startswith(("flow.", "exemplar.embed_net."))
        }
        optimizer = torch.optim.Adam(
            [
                {**group, "lr": rate}
                for group, rate in zip(system.get_parameter_groups(), (1e-5, 1e-4), strict=True)
            ]
        )
        batch = {"frames_lab": clip, "frames_pil": None, "references_pil": [pil(clip[0, 0])]}
        before = system.exemplar.nonlocal_net.theta.weight.detach().clone()  # type: ignore[union-attr]
        assert all(np.isfinite(guide_loop(system.train(), optimizer, batch, 2)))
        assert not torch.equal(before, system.exemplar.nonlocal_net.theta.weight)  # type: ignore[union-attr]
        assert all(torch.equal(system.state_dict()[key], value) for key, value in frozen.items())
    # The colours of the clip reach nothing, with these networks as with the small ones.
    noise = clip.clone()
    noise[:, :, 1:] = torch.rand(noise[:, :, 1:].shape)
    image = pil(clip[0, 0])
    with torch.no_grad():
        first, second = (pretrained.eval().forward_sequence(each, None, image) for each in (clip, noise))
    assert torch.equal(first, second)
