from __future__ import annotations

import copy
import io
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from atelier.archs.fusion import SimpleFusionNet, UNetFusionNet, average_colours
from atelier.archs.fusion_options import FUSIONS
from atelier.colorize import (
    Anchor,
    ClipFlow,
    FusionSystem,
    References,
    SequenceOutput,
    SequenceState,
    Teacher,
)
from atelier.colorize.state import MODES
from atelier.errors import UserError
from atelier.images.warp import warp
from colorize.films import CountingFlow, film, lively, references_for, small_system

FIELDS = ("ab", "flow_ab", "flow_conf", "flow", "exemplar_ab", "exemplar_sim")


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return film(2, 4)


@pytest.fixture(scope="module")
def system() -> FusionSystem:
    torch.manual_seed(0)
    return lively(small_system(UNetFusionNet(8))).eval()


def same(first: SequenceOutput, second: SequenceOutput, tolerance: float = 0) -> None:
    for name in FIELDS:
        torch.testing.assert_close(
            getattr(first, name),
            getattr(second, name),
            atol=tolerance,
            rtol=0,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def test_shapes_and_the_first_frame(system: FusionSystem, clip: Tensor) -> None:
    out = system(clip[:, :, :1], references_for(clip))
    for name, channels in zip(FIELDS, (2, 2, 1, 2, 2, 1), strict=True):
        assert getattr(out, name).shape == (2, 4, channels, 24, 32), name
        assert getattr(out, name).dtype == torch.float32
    # Nothing moved yet: the flow proposes what the exemplar proposes, and is not believed.
    assert torch.equal(out.flow_ab[:, 0], out.exemplar_ab[:, 0])
    assert (out.flow_conf[:, 0] == 0).all() and (out.flow[:, 0] == 0).all()
    assert (out.flow_conf[:, 1:] > 0.1).any() and out.exemplar_ab.abs().mean() > 0.01


def test_frame_zero_of_the_average_is_the_exemplar_not_grey(system: FusionSystem, clip: Tensor) -> None:
    out = system(clip[:, :, :1], references_for(clip), mode="average")
    torch.testing.assert_close(out.ab[:, 0], out.exemplar_ab[:, 0], atol=1e-6, rtol=0)
    assert out.ab[:, 0].abs().mean() > 0.05


def test_modes_hand_on_their_own_colours(system: FusionSystem, clip: Tensor) -> None:
    lightness, references = clip[:, :, :1], references_for(clip)
    outs = {mode: system(lightness, references, mode=mode) for mode in MODES}
    for mode in ("fused", "average", "flow"):
        out = outs[mode]
        carried = warp(out.ab[:, 1], out.flow[:, 2]).clamp(-1, 1)
        torch.testing.assert_close(out.flow_ab[:, 2], carried, atol=1e-6, rtol=0)
    average = outs["average"]
    formula = average_colours(
        average.flow_ab[:, 2], average.exemplar_ab[:, 2], average.flow_conf[:, 2], average.exemplar_sim[:, 2]
    )
    torch.testing.assert_close(average.ab[:, 2], formula)
    assert torch.equal(outs["flow"].ab, outs["flow"].flow_ab)
    assert torch.equal(outs["exemplar"].ab, outs["exemplar"].exemplar_ab)
    assert (outs["grey"].ab == 0).all()
    assert len({float(out.ab.detach().double().sum()) for out in outs.values()}) == len(MODES)
    # What a mode does not need is not computed.
    assert (outs["exemplar"].flow_conf == 0).all() and (outs["exemplar"].flow == 0).all()
    assert (outs["flow"].exemplar_sim[:, 1:] == 0).all() and (outs["flow"].exemplar_sim[:, 0] != 0).any()
    with pytest.raises(UserError, match="unknown mode 'fuse'; did you mean 'fused'"):
        system(lightness, references, mode="fuse")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["simple", "unet", "vidnet"])
def test_untrained_fusion_is_the_average(kind: str) -> None:
    clip = film(1, 3)
    system = small_system(FUSIONS.options_class(kind)().build()).eval()
    fused = system(clip[:, :, :1], references_for(clip))
    average = system(clip[:, :, :1], references_for(clip), mode="average")
    same(fused, average, 1e-6)


def test_the_colours_of_the_clip_are_never_read(system: FusionSystem, clip: Tensor) -> None:
    references = references_for(clip)
    noise = clip.clone()
    noise[:, :, 1:] = torch.rand(noise[:, :, 1:].shape)
    before = system.forward_sequence(clip, references=references, return_memflow=True)
    after = system.forward_sequence(noise, references=references, return_memflow=True)
    for first, second in zip(before, after, strict=True):
        assert torch.equal(first, second)
    # Teeth: noise in the lightness does change the result.
    assert not torch.equal(
        before[0][:, :, 1:], system.forward_sequence(noise.flip(4), references=references)[:, :, 1:]
    )


@pytest.mark.parametrize("frame", [0, 1, 2])
def test_scheduled_sampling_reaches_true_colours_of_earlier_frames_only(
    frame: int, system: FusionSystem, clip: Tensor
) -> None:
    lightness, references, true = clip[:, :, :1], references_for(clip), clip[:, :, 1:]
    mask = torch.ones(2, 4, dtype=torch.bool)
    noise = true.clone()
    noise[:, frame:] = torch.rand(noise[:, frame:].shape)
    first = system(lightness, references, previous_ab=Teacher(true, mask))
    second = system(lightness, references, previous_ab=(noise, mask))
    for name in FIELDS:
        assert torch.equal(getattr(first, name)[:, : frame + 1], getattr(second, name)[:, : frame + 1]), name
    assert not torch.equal(first.ab[:, frame + 1], second.ab[:, frame + 1])
    # And the mask decides, clip by clip.
    torch.testing.assert_close(
        first.flow_ab[:, 2], warp(true[:, 1], first.flow[:, 2]).clamp(-1, 1), atol=1e-6, rtol=0
    )
    off = torch.zeros_like(mask)
    same(system(lightness, references, previous_ab=(true, off)), system(lightness, references))
    off[1] = True
    mixed = system(lightness, references, previous_ab=(true, off))
    assert torch.equal(mixed.ab[1], first.ab[1]) and not torch.equal(mixed.ab[0], first.ab[0])


def test_the_state_is_the_float_prediction_bit_for_bit(system: FusionSystem, clip: Tensor) -> None:
    lightness = clip[:, :, :1]
    out = system(lightness, references_for(clip))
    state = out.state
    assert torch.equal(state.ab, out.ab[:, -1]) and torch.equal(state.lightness, lightness[:, -1])
    assert not torch.equal(state.ab, (state.ab * 127).round() / 127)
    assert state.frame == 4 and not state.ab.requires_grad
    # A copy of one frame, not a view that keeps the whole clip alive.
    assert state.ab.untyped_storage().nbytes() == state.ab.nbytes
    assert state.lightness.untyped_storage().nbytes() == state.lightness.nbytes


@pytest.mark.parametrize("flow", ["dis", "counting"])
def test_a_clip_in_pieces_is_the_clip(flow: str, clip: Tensor) -> None:
    system = lively(small_system(UNetFusionNet(8), CountingFlow() if flow == "counting" else "dis")).eval()
    lightness, prepared = clip[:, :, :1], system.prepare(references_for(clip))
    whole = system(lightness, prepared)
    pieces, state = [], None
    for start, end in ((0, 1), (1, 3), (3, 4)):
        out = system(lightness[:, start:end], prepared, state=state)
        pieces.append(out.ab)
        # Through a file, as a resumed run does.
        file = io.BytesIO()
        torch.save(out.state.state_dict(), file)
        file.seek(0)
        state = SequenceState.from_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(torch.cat(pieces, 1), whole.ab)
    fresh = system(lightness[:, 3:], prepared)
    assert not torch.equal(fresh.ab, pieces[-1])


def test_a_new_scene_is_a_beginning(clip: Tensor) -> None:
    system = lively(small_system(UNetFusionNet(8), CountingFlow())).eval()
    lightness, prepared = clip[:, :, :1], system.prepare(references_for(clip))
    state = system(lightness, prepared).state
    assert int(state.flow["pairs"]) == 3
    cut = state.new_scene()
    assert (cut.frame, cut.scene, cut.flow, cut.ab) == (4, 1, None, None)
    same(system(lightness, prepared, state=cut), system(lightness, prepared))


def test_the_flow_sees_predictions_and_its_own_memory(clip: Tensor) -> None:
    flow = CountingFlow()
    system = lively(small_system(UNetFusionNet(8), flow)).eval()
    out = system(clip[:, :, :1], references_for(clip))
    assert [shown["pairs"] for shown in flow.shown] == [0, 1, 2]
    for t, shown in enumerate(flow.shown):
        assert torch.equal(shown["previous_ab"], out.ab[:, t])
        assert torch.equal(shown["previous"], clip[:, t, :1])


def test_the_state_does_not_grow() -> None:
    lightness = film(1, 12)[:, :, :1]
    system = small_system(None, CountingFlow()).eval()
    prepared = system.prepare(references_for(film(1, 1)))
    state, sizes = None, []
    for start in range(200):
        with torch.no_grad():
            state = system(lightness[:, start % 12 : start % 12 + 1], prepared, state=state).state
        stored = {key: value.untyped_storage().nbytes() for key, value in state.tensors.items()}
        sizes.append((stored, len(state.state_dict())))
    assert sizes[1] == sizes[-1] and state.frame == 200
    assert set(sizes[-1][0]) == {"lightness", "ab", "flow.pairs"}


def test_flows_found_beforehand_give_the_same(system: FusionSystem, clip: Tensor) -> None:
    lightness, references = clip[:, :, :1], references_for(clip)
    online = system(lightness, references)
    same(system(lightness, references, flows=ClipFlow(online.flow, online.flow_conf)), online)
    altered = system(lightness, references, flows=(online.flow + 3, online.flow_conf))
    assert not torch.equal(altered.ab[:, 1], online.ab[:, 1])
    assert torch.equal(altered.ab[:, 0], online.ab[:, 0])


def test_an_anchor_fixes_its_frame_and_what_follows(system: FusionSystem, clip: Tensor) -> None:
    lightness = clip[:, :, :1]
    plain = References(clip[:, [0, 2]].clone(), ("exemplar", "exemplar"))
    pinned = replace(plain, roles=("exemplar", Anchor(2)))
    without, anchored = system(lightness, plain), system(lightness, pinned)
    assert torch.equal(anchored.ab[:, 2], clip[:, 2, 1:])
    assert torch.equal(anchored.ab[:, :2], without.ab[:, :2])
    carried = warp(clip[:, 2, 1:], anchored.flow[:, 3]).clamp(-1, 1)
    torch.testing.assert_close(anchored.flow_ab[:, 3], carried, atol=1e-6, rtol=0)
    assert anchored.state.anchor == 2 and without.state.anchor is None
    # The number counts from the beginning of the film.
    later = system(lightness[:, 2:], pinned, state=system(lightness[:, :2], pinned).state)
    assert torch.equal(later.ab, anchored.ab[:, 2:])
    assert (system(lightness, pinned, mode="grey").ab == 0).all()


def test_batch_of_two_is_two_clips(system: FusionSystem, clip: Tensor) -> None:
    references = references_for(clip)
    both = system(clip[:, :, :1], references)
    for item in range(2):
        alone = system(
            clip[item : item + 1, :, :1], References(references.lab[item : item + 1], references.roles)
        )
        for name in FIELDS:
            torch.testing.assert_close(
                getattr(both, name)[item : item + 1], getattr(alone, name), atol=1e-5, rtol=0
            )


def test_two_evaluations_are_equal(system: FusionSystem, clip: Tensor) -> None:
    given = (clip[:, :, :1], references_for(clip))
    same(system(*given), system(*given))


@pytest.mark.parametrize("fusion", ["simple", "unet"])
def test_every_trainable_parameter_gets_a_gradient(fusion: str, clip: Tensor) -> None:
    torch.manual_seed(0)
    system = lively(small_system(FUSIONS.options_class(fusion)().build())).train()
    out = system(clip[:, :, :1], references_for(clip))
    (out.ab - clip[:, :, 1:]).abs().mean().backward()
    for name, parameter in system.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(("bptt", "reached"), [(1, [3]), (2, [2, 3]), (4, [0, 1, 2, 3])])
def test_gradients_go_back_as_far_as_asked(bptt: int, reached: list[int], clip: Tensor) -> None:
    class Probe(nn.Module):
        """Adds a number of its own at every frame."""

        def __init__(self) -> None:
            super().__init__()
            self.added = nn.Parameter(torch.zeros(4))
            self.calls = 0

        def forward(self, flow_ab: Tensor, exemplar_ab: Tensor, *_: Tensor) -> Tensor:
            self.calls += 1
            return 0.5 * flow_ab + 0.5 * exemplar_ab + self.added[self.calls - 1]

    system = small_system(Probe(), CountingFlow())
    system(clip[:, :, :1], references_for(clip), bptt=bptt).ab[:, 3].sum().backward()
    assert system.fusion.added.grad.nonzero().flatten().tolist() == reached


def test_colours_stay_in_range(clip: Tensor) -> None:
    class Loud(nn.Module):
        def forward(self, flow_ab: Tensor, *_: Tensor) -> Tensor:
            return 3 * flow_ab + 1.5

    out = small_system(Loud())(clip[:, :, :1], references_for(clip))
    assert out.ab.abs().max() == 1 and out.flow_ab.abs().max() <= 1
    extreme = References(clip[:, :1].sign(), ("exemplar",))
    for mode in MODES:
        assert small_system()(clip[:, :, :1], extreme, mode=mode).ab.abs().max() <= 1


@pytest.mark.parametrize(
    ("kind", "size"), [("unet", (96, 160)), ("unet", (161, 97)), ("unet", (37, 50)), ("vidnet", (13, 21))]
)
def test_any_size_comes_out_as_it_went_in(kind: str, size: tuple[int, int]) -> None:
    clip = film(1, 2, *size)
    system = small_system(FUSIONS.options_class(kind)().build()).eval()
    with torch.no_grad():
        out = system(clip[:, :, :1], references_for(clip))
        average = system(clip[:, :, :1], references_for(clip), mode="average")
    assert out.ab.shape[-2:] == size and torch.isfinite(out.ab).all()
    torch.testing.assert_close(out.ab, average.ab, atol=1e-6, rtol=0)


def test_mixed_precision_is_finite_and_close(system: FusionSystem, clip: Tensor) -> None:
    plain = system(clip[:, :, :1], references_for(clip))
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            mixed = system(clip[:, :, :1], references_for(clip))
        assert mixed.ab.dtype == torch.float32 and torch.isfinite(mixed.ab).all()
        assert (mixed.ab - plain.ab).abs().mean() < 2e-2


def test_feature_network_runs_once_a_reference_and_once_a_frame(clip: Tensor) -> None:
    system = small_system()
    calls = []
    system.exemplar.net.register_forward_hook(lambda *_: calls.append(1))
    prepared = system.prepare(References(clip[:, :3].clone(), ("exemplar",) * 3))
    out = system(clip[:, :, :1], prepared)
    system(clip[:, :, :1], prepared, state=out.state)
    assert len(calls) == 3 + 8


def test_wrong_shapes_are_named(system: FusionSystem, clip: Tensor) -> None:
    lightness, references = clip[:, :, :1], references_for(clip)
    flow, confidence = torch.zeros(2, 4, 2, 24, 32), torch.zeros(2, 4, 1, 24, 32)
    for kwargs, message in (
        ({"flows": (flow[:, 1:], confidence)}, "flows' field must be"),
        ({"flows": (flow, confidence[..., :5])}, "flows' confidence must be"),
        ({"previous_ab": (flow, torch.zeros(2, 3, dtype=torch.bool))}, "previous_ab's mask must be"),
        ({"previous_ab": (confidence, torch.zeros(2, 4, dtype=torch.bool))}, "previous_ab must be"),
        ({"bptt": 0}, "at least 1"),
        ({"state": SequenceState(torch.zeros(2, 1, 8, 8), torch.zeros(2, 2, 8, 8))}, "the state's lightness"),
    ):
        with pytest.raises(UserError, match=message):
            system(lightness, references, **kwargs)
    for wrong in (clip, lightness[:, :0], lightness[0]):
        with pytest.raises(UserError, match=r"lightness must be \[B, T, 1, H, W\]"):
            system(wrong, references)


def test_a_foreign_state_is_refused() -> None:
    good = SequenceState(torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 4, 4), {"k": torch.ones(1)}, 7, 2, 3)
    again = SequenceState.from_state_dict(good.state_dict())
    assert (again.frame, again.scene, again.anchor) == (7, 2, 3) and again.to("meta").ab.device.type == "meta"
    with pytest.raises(UserError, match="missing or unknown ab, more"):
        SequenceState.from_state_dict(
            {**{k: v for k, v in good.state_dict().items() if k != "ab"}, "more": 1}
        )


def test_a_copy_is_independent_and_pickles(system: FusionSystem, clip: Tensor) -> None:
    system.forward_sequence(clip, references=references_for(clip))
    twin = copy.deepcopy(system)
    assert twin.state is not None
    same(twin(clip[:, :, :1], references_for(clip)), system(clip[:, :, :1], references_for(clip)))


def test_simple_fusion_is_what_older_scripts_name(clip: Tensor) -> None:
    import atelier

    system = atelier.FusionSystem(fusion_net=atelier.SimpleFusionNet(), exemplar="tiny")
    assert isinstance(system, FusionSystem) and isinstance(system.fusion_unet, SimpleFusionNet)
    assert atelier.UNetFusionNet is UNetFusionNet
