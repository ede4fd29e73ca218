"""SwinTExCo's matching: what its networks see, how often, what learns, and the files it starts from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from archs.golden import formula_state, shapes_of
from atelier.archs.colorvidnet import ColorVidNet
from atelier.archs.swintexco_warp import WarpNet
from atelier.colorize.matcher_options import SwinTExCoOptions
from atelier.colorize.matcher_swintexco import SwinTExCoMatcher
from atelier.colorize.references import References
from atelier.errors import UserError
from atelier.images.lab import LabScale, rgb_to_lab


@pytest.fixture(scope="module", autouse=True)
def no_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        yield


def built(**options: Any) -> SwinTExCoMatcher:
    matcher = SwinTExCoOptions(**options).build()
    assert isinstance(matcher, SwinTExCoMatcher)
    return matcher


@pytest.fixture(scope="module")
def _shared() -> SwinTExCoMatcher:
    torch.manual_seed(0)
    return built(allow_random_backbone=True)


@pytest.fixture
def matcher(_shared: SwinTExCoMatcher) -> SwinTExCoMatcher:
    _shared.zero_grad()
    return _shared.eval()


def picture(seed: int, height: int = 64, width: int = 64) -> Tensor:
    """sRGB ``[3, H, W]`` in [0, 1]."""
    coarse = torch.rand(1, 3, 7, 9, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 1)


def scene(seed: int, height: int = 64, width: int = 64) -> Tensor:
    return LabScale.UNIT.normalise(rgb_to_lab(picture(seed, height, width)))


def batch(*seeds: int) -> Tensor:
    return torch.stack([scene(seed) for seed in seeds])


def seen_by(matcher: SwinTExCoMatcher, run: Callable[[], object]) -> list[Tensor]:
    """What the embed net is given while ``run`` runs."""
    pictures: list[Tensor] = []
    handle = matcher.embed_net.register_forward_pre_hook(lambda _, given: pictures.append(given[0]))
    try:
        run()
    finally:
        handle.remove()
    return pictures


def test_references_are_embedded_once_and_frames_once(matcher: SwinTExCoMatcher) -> None:
    def run() -> None:
        with torch.no_grad():
            cache = matcher.prepare(References.stack([scene(1), scene(2), scene(3)]))
            for seed in range(4):
                matcher.match(scene(10 + seed)[None, :1], cache)

    assert len(seen_by(matcher, run)) == 3 + 4


def test_the_embed_net_sees_a_colour_picture_and_a_grey_one_without_statistics(
    matcher: SwinTExCoMatcher,
) -> None:
    lab = scene(1)
    with torch.no_grad():
        (reference,) = seen_by(matcher, lambda: matcher.prepare(References.stack([lab])))
        (target,) = seen_by(matcher, lambda: matcher.queries(lab[None, :1], None))
    assert torch.allclose(reference[0], picture(1), atol=1e-4)
    lightness = rgb_to_lab(picture(1))[:1] / 100
    assert torch.allclose(target[0], lightness.expand(3, -1, -1), atol=1e-5)


def test_it_is_the_official_forward(matcher: SwinTExCoMatcher) -> None:
    frame, reference = scene(1), scene(2)
    with torch.no_grad():
        ab, similarity = matcher.match(frame[None, :1], matcher.prepare(References.stack([reference])))
        grey = (frame[None, :1] + 1) / 2
        colour, expected = matcher.nonlocal_net(
            matcher.embed_net(grey.expand(-1, 3, -1, -1)),
            matcher.embed_net(picture(2)[None]),
            reference[None],
        )
    assert torch.allclose(ab, colour[:, 1:], atol=2e-4)
    assert torch.allclose(similarity, expected, atol=1e-4)


@torch.no_grad()
def test_a_batch_is_its_clips_one_by_one(matcher: SwinTExCoMatcher) -> None:
    references = References(torch.stack([batch(3, 4), batch(5, 6)]), ("exemplar", "exemplar"))
    frames = batch(1, 2)[:, :1]
    together = matcher.match(frames, matcher.prepare(references))
    for b in range(2):
        one = References(references.lab[b : b + 1], references.roles)
        for a, whole in zip(matcher.match(frames[b : b + 1], matcher.prepare(one)), together, strict=True):
            assert torch.allclose(a[0], whole[b], atol=1e-5)


@torch.no_grad()
def test_a_size_that_is_no_multiple_of_32_is_padded_and_cut(matcher: SwinTExCoMatcher) -> None:
    ab, similarity = matcher.match(
        scene(1, 50, 70)[None, :1], matcher.prepare(References.stack([scene(2, 33, 41)]))
    )
    assert ab.shape == (1, 2, 50, 70) and similarity.shape == (1, 1, 50, 70)
    assert torch.isfinite(ab).all() and torch.isfinite(similarity).all()


def test_a_loss_of_the_colours_alone_reaches_every_weight_of_the_matching_network(
    matcher: SwinTExCoMatcher,
) -> None:
    matcher.train()
    torch.manual_seed(1)
    cache = matcher.prepare(References.stack([scene(2), scene(3)]))
    ab, _ = matcher.match(scene(1)[None, :1], cache)
    (ab - scene(1)[None, 1:]).abs().mean().backward()
    for name, parameter in matcher.nonlocal_net.named_parameters():
        if name.endswith("weight"):
            gradient = parameter.grad
            assert gradient is not None and torch.isfinite(gradient).all() and gradient.abs().max() > 0, name
    assert all(parameter.grad is None for parameter in matcher.embed_net.parameters())


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_features_do_not_notice_autocast(matcher: SwinTExCoMatcher, dtype: torch.dtype) -> None:
    exact = matcher.embed_net(picture(1)[None])
    with torch.autocast("cpu", dtype=dtype):
        assert all(torch.equal(a, b) for a, b in zip(matcher.embed_net(picture(1)[None]), exact, strict=True))


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_finite_and_near_float32(matcher: SwinTExCoMatcher, dtype: torch.dtype) -> None:
    """Slow where the processor has no half precision of its own."""
    references, lightness = References.stack([scene(2, 32, 64)]), scene(1, 32, 64)[None, :1]
    exact = matcher.match(lightness, matcher.prepare(references))
    with torch.autocast("cpu", dtype=dtype):
        near = matcher.match(lightness, matcher.prepare(references))
    for a, b in zip(near, exact, strict=True):
        assert a.dtype == torch.float32 and torch.isfinite(a).all()
        assert (a - b).abs().mean() < 2e-2


@pytest.mark.parametrize("temperature", [1e-10, 5e-4, 0.001, 0.06])
def test_a_temperature_that_teaches_nothing_is_an_options_error(temperature: float) -> None:
    with pytest.raises(ValidationError, match=r"must be from 0\.005 to 0\.05.*inference_temperature"):
        SwinTExCoOptions(temperature=temperature)


def test_training_and_results_have_their_own_temperature() -> None:
    matcher = built(allow_random_backbone=True, temperature=0.02, inference_temperature=1e-10)
    assert matcher.train().temperature() == 0.02
    assert matcher.eval().temperature() == 1e-10


def test_what_is_frozen_stays_frozen_and_in_evaluation_mode() -> None:
    open_, closed = (built(allow_random_backbone=True, freeze=freeze).train() for freeze in (False, True))
    trained = [name for name, p in open_.named_parameters() if p.requires_grad]
    assert len(trained) == 43 and all(name.startswith("nonlocal_net.") for name in trained)
    assert open_.nonlocal_net.training and not open_.embed_net.training
    assert not any(p.requires_grad for p in closed.parameters())
    assert not closed.nonlocal_net.training and closed.temperature() == closed.options.inference_temperature


# Files. A tensor of one number repeated has every shape and needs no space.


def constants(name: str, value: float = 0.01) -> dict[str, Tensor]:
    return {key: torch.tensor(value).expand(shape) for key, shape in shapes_of(f"swintexco_{name}").items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "swintexco"
    folder.mkdir()
    for place, name in enumerate(("embed", "nonlocal", "colornet"), 1):
        torch.save(constants(name, place / 100), folder / f"{name}{'' if name == 'colornet' else '_net'}.pth")
    return folder


def test_a_folder_loads_strictly_and_completely(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "discriminator.pth").touch()
    (folder / "learning_state.pth").touch()
    before = torch.random.get_rng_state()
    with caplog.at_level(logging.INFO):
        matcher = built(checkpoint=folder)
    assert torch.equal(before, torch.random.get_rng_state())
    assert matcher.colornet is not None
    for child, value in (("embed_net", 0.01), ("nonlocal_net", 0.02), ("colornet", 0.03)):
        assert all(
            torch.equal(x, torch.full_like(x, value)) for x in getattr(matcher, child).state_dict().values()
        )
        source = matcher.sources[child]
        assert (
            source.path == folder / f"{child}.pth" and source.sha256 is not None and len(source.sha256) == 64
        )
    assert matcher.colornet.in_channels == 7 and not any(
        p.requires_grad for p in matcher.colornet.parameters()
    )
    (note,) = matcher.notes
    assert "discriminator.pth and learning_state.pth not needed" in note and note in caplog.text


def test_an_absent_colornet_is_no_error_and_its_head_says_so(folder: Path) -> None:
    (folder / "colornet.pth").unlink()
    matcher = built(checkpoint=folder)
    assert matcher.colornet is None and "colornet" not in matcher.sources
    with pytest.raises(UserError, match=r"needs colornet\.pth"):
        matcher.refine(torch.zeros(1, 1, 16, 16), torch.zeros(1, 2, 16, 16), torch.zeros(1, 1, 16, 16))


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("embed_net.pth", "pretrained.stages_2.blocks.3.attn.qkv.weight"),
        ("nonlocal_net.pth", "layer.1.conv2.bias"),
        ("colornet.pth", "conv5_1.weight"),
    ],
)
def test_a_renamed_key_is_an_error_with_both_names(folder: Path, file: str, key: str) -> None:
    state = torch.load(folder / file, weights_only=True)
    renamed = key.replace("weight", "heft").replace("bias", "bent")
    state[renamed] = state.pop(key)
    torch.save(state, folder / file)
    with pytest.raises(UserError) as error:
        built(checkpoint=folder)
    assert file in str(error.value)
    assert key in str(error.value) and renamed in str(error.value)


@pytest.mark.parametrize("missing", ["embed_net.pth", "nonlocal_net.pth"])
def test_an_absent_file_of_the_folder_is_named(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(UserError, match=missing):
        built(checkpoint=folder)


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is no folder"):
        built(checkpoint=tmp_path / "nowhere")


def test_a_colornet_of_other_inputs_is_told(folder: Path) -> None:
    state = constants("colornet")
    state["conv1_1.0.weight"] = torch.zeros(32, 8, 3, 3)
    torch.save(state, folder / "colornet.pth")
    with pytest.raises(UserError, match="7 or 4 input channels, it has 8"):
        built(checkpoint=folder)


def test_the_backbone_may_come_from_a_classifiers_file(tmp_path: Path) -> None:
    classifier = {
        key.removeprefix("pretrained.").replace("stages_", "stages."): value
        for key, value in constants("embed", 0.5).items()
    }
    classifier |= {"head.fc.weight": torch.zeros(1000, 768), "head.fc.bias": torch.zeros(1000)}
    torch.save(classifier, tmp_path / "swin.pth")
    matcher = built(backbone_weights=tmp_path / "swin.pth")
    assert all(torch.equal(x, torch.full_like(x, 0.5)) for x in matcher.embed_net.state_dict().values())
    assert matcher.sources["embed_net"].path == tmp_path / "swin.pth"
    assert matcher.nonlocal_net.theta.weight.std() > 0


def test_no_weights_are_an_error_and_random_ones_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match=r"has no weights here.*exemplar: tiny"):
        built()
    assert not caplog.records
    matcher = built(allow_random_backbone=True)
    assert "RANDOM weights" in caplog.text and "RANDOM weights" in matcher.notes[0]
    assert "random" in matcher.sources["embed_net"].text


# The published head.


def with_colornet(channels: int, matcher: SwinTExCoMatcher) -> tuple[SwinTExCoMatcher, ColorVidNet]:
    with torch.device("meta"):
        net = ColorVidNet(channels, out_scale=128.0)
    state = formula_state(shapes_of("swintexco_colornet") | {"conv1_1.0.weight": (32, channels, 3, 3)}, 2)
    net.load_state_dict(state, assign=True)
    net.conv10_ab.weight.mul_(0.05)
    return SwinTExCoMatcher(matcher.embed_net, WarpNet(), net, matcher.options, {}), net


@torch.no_grad()
@pytest.mark.parametrize("channels", [7, 4])
def test_the_published_head_sees_centred_lab(matcher: SwinTExCoMatcher, channels: int) -> None:
    head, net = with_colornet(channels, matcher)
    head.train()
    assert not net.training
    now, before = rgb_to_lab(picture(1, 32, 48))[None], rgb_to_lab(picture(2, 32, 48))[None]
    likeness = torch.rand(1, 1, 32, 48)
    unit = LabScale.UNIT.normalise(now)
    centre = torch.tensor([50.0, 0, 0])[:, None, None]
    planes = torch.cat([now - centre, likeness, *([before - centre] if channels == 7 else [])], dim=1)
    expected = net(planes)
    assert 1 < expected.abs().mean() < 100
    found = head.refine(unit[:, :1], unit[:, 1:], likeness, LabScale.UNIT.normalise(before))
    assert torch.allclose(found * 127, expected.clamp(-127, 127), atol=1e-2)


@torch.no_grad()
def test_the_first_frame_has_zeros_for_the_previous_one(matcher: SwinTExCoMatcher) -> None:
    head, _ = with_colornet(7, matcher)
    unit = scene(1, 32, 48)[None]
    first = head.refine(unit[:, :1], unit[:, 1:], torch.ones(1, 1, 32, 48))
    zeros = head.refine(unit[:, :1], unit[:, 1:], torch.ones(1, 1, 32, 48), torch.zeros(1, 3, 32, 48))
    other = head.refine(unit[:, :1], unit[:, 1:], torch.ones(1, 1, 32, 48), torch.ones(1, 3, 32, 48))
    assert torch.equal(first, zeros) and not torch.equal(first, other)
