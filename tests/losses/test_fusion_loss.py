"""FusionLoss: forms of input, what the default adds up, each term's gradient, and clear messages."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atelier import FusionLoss
from atelier.errors import UserError
from atelier.losses.colour_options import ColourLossOptions
from atelier.losses.temporal import temporal_loss
from losses.colour_clips import random_lab

FRAMES, SIZE = 3, 16


class Stages(nn.Module):
    """Stands for the embed net: four frozen stages of features, each half as large as the one before."""

    def __init__(self, kernel: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(
            nn.Conv2d(3 if k == 0 else 6, 6, kernel, 1, kernel // 2) for k in range(4)
        )
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        stages = []
        for layer in self.layers:
            x = F.avg_pool2d(layer(x).tanh(), 2)
            stages.append(F.normalize(x, dim=1))
        return stages


class Painter(nn.Module):
    """A matcher and a fusion in little, so that every term has trainable parts to reach."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.matcher, self.fusion = nn.Conv2d(1, 2, 3, 1, 1), nn.Conv2d(3, 2, 3, 1, 1)

    def forward(self, lightness: Tensor) -> SimpleNamespace:
        flat = lightness.flatten(0, 1)
        exemplar = self.matcher(flat).tanh()
        ab = self.fusion(torch.cat([flat, exemplar], dim=1)).tanh()
        draw = torch.Generator().manual_seed(5)
        batch, frames = lightness.shape[:2]
        shape = (batch, frames, 2, SIZE, SIZE)
        return SimpleNamespace(
            ab=ab.reshape(shape),
            exemplar_ab=exemplar.reshape(shape),
            flow_ab=0.3 * torch.randn(shape, generator=draw),
            flow_conf=torch.rand(batch, frames, 1, SIZE, SIZE, generator=draw),
            flow=2 * torch.randn(shape, generator=draw),
        )


def truth(batch: int = 2) -> Tensor:
    return random_lab(batch, FRAMES, size=SIZE)


def painted(lab: Tensor) -> tuple[Tensor, SimpleNamespace]:
    made = Painter()(lab[:, :, :1])
    return torch.cat([lab[:, :, :1], made.ab], dim=2), made


def test_the_default_is_l1_and_adaptive() -> None:
    lab = truth()
    outputs, made = painted(lab)
    total, terms = FusionLoss()(outputs, lab, sequence=made, return_terms=True)
    apart = (made.ab - made.flow_ab).abs()[:, 1:]
    carried = (made.flow_conf[:, 1:] * apart).mean() + 0.3 * temporal_loss(made.ab, made.flow, made.flow_conf)
    torch.testing.assert_close(terms["l1"], (made.ab - lab[:, :, 1:]).abs().mean().detach())
    torch.testing.assert_close(terms["adaptive"], 0.5 * carried.detach())
    torch.testing.assert_close(total.detach(), terms["l1"] + terms["adaptive"])
    assert total.requires_grad and not any(term.requires_grad for term in terms.values())


def test_the_guide_s_call_warns_once_and_learns() -> None:
    lab = truth(1)
    outputs, made = painted(lab)
    frames, results, carried = list(lab[0]), list(outputs[0]), list(made.flow_ab[0])
    criterion = FusionLoss()
    with pytest.warns(UserWarning, match=r"not given: flows= \(or sequence=\)") as caught:
        loss = criterion(results, frames, carried)
        criterion(results, frames, carried)
    assert len(caught) == 1
    assert "test_fusion_loss" in caught[0].filename, "the warning points at the caller"
    expected = (made.ab - lab[:, :, 1:]).abs().mean() + 0.5 * (made.ab - made.flow_ab).abs()[:, 1:].mean()
    torch.testing.assert_close(loss, expected)
    with pytest.warns(UserWarning, match="memflow_outputs= .*, flows= "):
        alone = FusionLoss()(results, frames)
    torch.testing.assert_close(alone, (made.ab - lab[:, :, 1:]).abs().mean())


def test_lists_and_batches_are_the_same() -> None:
    lab = truth()
    outputs, made = painted(lab)
    whole = FusionLoss()(outputs, lab, made.flow_ab, made.flow_conf, flows=made.flow)

    def over_time(clip: Tensor) -> list[Tensor]:
        return list(clip.transpose(0, 1))

    listed = FusionLoss()(
        over_time(outputs),
        over_time(lab),
        over_time(torch.cat([lab[:, :, :1], made.flow_ab], dim=2)),  # LAB frames, as the system returns them
        over_time(made.flow_conf),
        flows=[SimpleNamespace(flow=flow) for flow in over_time(made.flow)],
    )
    torch.testing.assert_close(whole, listed)
    each = [
        FusionLoss()(
            outputs[k], lab[k], list(made.flow_ab[k]), list(made.flow_conf[k]), flows=list(made.flow[k])
        )
        for k in range(2)
    ]
    # ΣM in the temporal term is a clip's own, so a batch is the mean of its clips.
    torch.testing.assert_close(whole, torch.stack(each).mean())


TERMS: dict[str, Any] = {
    "l1": 1.0,
    "exemplar": 0.5,
    "perceptual": {"weight": 0.05, "network": "embed"},
    "contextual": 0.1,
    "temporal": 0.2,
    "adaptive": 0.5,
    "smoothness": 5.0,
}


def gradients(weights: dict[str, Any]) -> Tensor:
    lab, painter = truth(1), Painter()
    made = painter(lab[:, :, :1])
    criterion = FusionLoss(weights, embed_net=Stages())
    loss = criterion(made.ab, lab, sequence=made, references=random_lab(1, 2, size=SIZE, seed=8))
    assert isinstance(loss, Tensor)
    loss.backward()
    return torch.cat([w.grad.flatten() for w in painter.parameters() if w.grad is not None])


@pytest.mark.parametrize("name", TERMS)
def test_each_term_moves_the_gradient(name: str) -> None:
    with_all, without = gradients(TERMS), gradients({k: v for k, v in TERMS.items() if k != name})
    if (
        with_all.shape == without.shape
    ):  # without the exemplar term the matcher still learns through the fusion
        assert (with_all - without).norm() > 1e-5
    alone = gradients({name: TERMS[name]})
    assert torch.isfinite(alone).all() and alone.norm() > 1e-5


def test_all_terms_are_named_and_add_up() -> None:
    lab = truth()
    outputs, made = painted(lab)
    criterion = FusionLoss(TERMS, embed_net=Stages())
    total, terms = criterion(
        outputs, lab, sequence=made, references=random_lab(2, size=SIZE, seed=8), return_terms=True
    )
    assert list(terms) == list(TERMS)
    torch.testing.assert_close(total.detach(), torch.stack(list(terms.values())).sum())
    assert not list(criterion.parameters()), "the embed net stays with its owner"
    double, _ = FusionLoss({**TERMS, "smoothness": 10.0}, embed_net=Stages())(
        outputs, lab, sequence=made, references=random_lab(2, size=SIZE, seed=8), return_terms=True
    )
    torch.testing.assert_close(double - total, terms["smoothness"])


def test_networks_join_the_default_when_given() -> None:
    lab = truth(1)
    outputs, made = painted(lab)
    criterion = FusionLoss(perceptual=lambda picture: picture, embed_net=Stages())
    _, terms = criterion(
        outputs, lab, sequence=made, references=random_lab(1, size=SIZE, seed=8), return_terms=True
    )
    assert list(terms) == ["l1", "perceptual", "contextual", "adaptive"]
    assert criterion.options.perceptual and criterion.options.perceptual.weight == 0.05
    assert criterion.options.contextual and criterion.options.contextual.weight == 0.015


def test_contextual_compares_the_first_frame_with_the_reference() -> None:
    lab, reference = truth(1), random_lab(1, 1, size=SIZE, seed=8)
    outputs, _ = painted(lab)
    criterion = FusionLoss({"contextual": 1.0}, embed_net=Stages())

    def loss(frames: Tensor, pictures: Any = reference) -> Tensor:
        result = criterion(frames, lab, references=pictures)
        assert isinstance(result, Tensor)
        return result

    before = loss(outputs)
    later = outputs.clone()
    later[:, 1:, 1:] += 0.1
    assert loss(later) == before
    first = outputs.clone()
    first[:, 0, 1:] += 0.1
    assert loss(first) != before
    # The picture is made of ab times 127: ten times the chroma is another picture, and a tenth is nearly grey.
    strong = outputs.clone()
    strong[:, :, 1:] *= 10
    assert (loss(strong) - before).abs() > 1e-3
    # Two pictures are one longer list: a second one that is the prediction itself can only help.
    both = torch.cat([reference, outputs[:, :1]], dim=1)
    assert loss(outputs, both) < before


def test_contextual_does_not_see_padding() -> None:
    """With features of single pixels, which padding cannot bleed into, the loss is the unpadded picture's."""
    lab, reference = truth(1), random_lab(1, 1, size=SIZE, seed=8)
    outputs, _ = painted(lab)
    criterion = FusionLoss({"contextual": 1.0}, embed_net=Stages(kernel=1))
    padded = F.pad(reference, (0, SIZE), value=0.3)
    valid = F.pad(torch.ones(1, 1, 1, SIZE, SIZE, dtype=torch.bool), (0, SIZE), value=False)
    whole = criterion(outputs, lab, references=reference)
    masked = criterion(outputs, lab, references=SimpleNamespace(lab=padded, valid=valid))
    torch.testing.assert_close(masked, whole)
    assert not torch.isclose(criterion(outputs, lab, references=padded), whole, rtol=1e-2)


def test_validity_and_direction_reach_the_temporal_term() -> None:
    lab = truth(1)
    outputs, made = painted(lab)
    valid = (made.flow_conf > 0.5).float()
    criterion = FusionLoss({"temporal": 1.0})
    for direction in ("backward", "forward"):
        found = criterion(outputs, lab, sequence=made, valid=valid, direction=direction)
        torch.testing.assert_close(found, temporal_loss(made.ab, made.flow, valid, direction))
    by_confidence = criterion(outputs, lab, sequence=made)
    torch.testing.assert_close(by_confidence, temporal_loss(made.ab, made.flow, made.flow_conf))


def test_motion_found_beforehand_brings_its_confidence() -> None:
    from atelier.colorize.flow import FlowResult
    from atelier.colorize.state import ClipFlow

    lab = truth(1)
    outputs, made = painted(lab)
    expected = FusionLoss()(outputs, lab, made.flow_ab, made.flow_conf, flows=made.flow)
    found = FusionLoss()(outputs, lab, made.flow_ab, flows=ClipFlow(made.flow, made.flow_conf))
    torch.testing.assert_close(found, expected)
    each = [FlowResult(made.flow[:, t], made.flow_conf[:, t], None) for t in range(FRAMES)]
    torch.testing.assert_close(FusionLoss()(outputs, lab, made.flow_ab, flows=each), expected)
    trusting = FusionLoss()(outputs, lab, made.flow_ab, flows=made.flow)
    assert not torch.isclose(trusting, expected)


def test_charbonnier_is_an_option() -> None:
    lab = truth(1)
    outputs, made = painted(lab)
    found = FusionLoss({"l1": {"weight": 2.0, "charbonnier": True}})(outputs, lab)
    expected = 2 * ((made.ab - lab[:, :, 1:]).square() + 1e-6).sqrt().mean()
    torch.testing.assert_close(found, expected)


def test_autocast_changes_nothing() -> None:
    lab = truth(1)
    outputs, made = painted(lab)
    arguments: dict[str, Any] = {"sequence": made, "references": random_lab(1, size=SIZE, seed=8)}
    criterion = FusionLoss(TERMS, embed_net=Stages())
    plain = criterion(outputs, lab, **arguments)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(criterion(outputs, lab, **arguments), plain, rtol=0, atol=0)
    half = criterion(outputs.bfloat16(), lab, **arguments)
    assert half.dtype == torch.float32 and torch.isfinite(half)


def test_vgg_without_weights_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"there is no file 'nowhere\.pth'"):
        FusionLoss({"perceptual": {"weight": 0.1, "vgg_weights": "nowhere.pth"}})
    criterion = FusionLoss({"perceptual": {"weight": 0.1, "vgg_weights": "random", "layer": "conv1_2"}})
    lab = truth(1)
    outputs, _ = painted(lab)
    assert criterion(outputs, lab) > 0 == criterion(lab, lab)


def message(call: Any) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def test_messages() -> None:
    lab = truth(1)
    outputs, made = painted(lab)
    assert "the clip has one frame" in message(
        lambda: FusionLoss()(outputs[:, :1], lab[:, :1], made.flow_ab[:, :1])
    )
    assert "outputs: the clip has no frames" in message(lambda: FusionLoss()([], lab))
    assert "must have one size" in message(lambda: FusionLoss()([lab[0, 0], lab[0, 1, :, :-1]], lab))
    assert "frames_lab: expected frames" in message(lambda: FusionLoss()(outputs, lab[:, :, 1:]))
    assert "flows is 1 clips of 2 frames" in message(
        lambda: FusionLoss()(outputs, lab, flows=made.flow[:, 1:])
    )
    assert "loss.temporal needs flows= or sequence=" in message(
        lambda: FusionLoss({"temporal": 1})(outputs, lab)
    )
    assert "loss.exemplar needs sequence=" in message(lambda: FusionLoss({"exemplar": 1})(outputs, lab))
    assert "loss.adaptive needs memflow_outputs=" in message(
        lambda: FusionLoss({"adaptive": 1})(outputs, lab)
    )
    assert "embed_net=" in message(lambda: FusionLoss({"contextual": 1}))
    assert "embed_net=" in message(lambda: FusionLoss({"perceptual": {"weight": 1, "network": "embed"}}))
    assert "loss.tempral" in message(lambda: FusionLoss({"tempral": 1}))
    assert "no term acts" in message(lambda: FusionLoss({"l1": 0}))
    assert "greater than 0" in message(lambda: FusionLoss({"l1": -1}))
    assert "did you mean" in message(lambda: FusionLoss({"perceptual": {"layer": "relu3_33"}})).lower()


def test_numbers_stand_for_weights_and_zero_leaves_out() -> None:
    options = ColourLossOptions.model_validate(
        {"l1": 1, "temporal": {"detach_previous": True}, "smoothness": 0}
    )
    assert options.l1 and options.l1.weight == 1.0 and options.smoothness is None
    assert options.temporal and options.temporal.weight == 0.2 and options.temporal.detach_previous
    again = ColourLossOptions.model_validate(options.model_dump(mode="json"))
    assert again == options
    schema = ColourLossOptions.model_json_schema()
    assert "number" in str(schema), "editors offer the short form"


def test_no_warning_where_all_is_given() -> None:
    lab = truth(1)
    outputs, made = painted(lab)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FusionLoss()(outputs, lab, sequence=made)
