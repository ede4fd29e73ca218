"""Each term of the loss moves the gradient of the real system's trainable parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from atelier.archs.fusion import UNetFusionNet
from atelier.colorize.references import References
from atelier.colorize.state import ClipFlow
from atelier.colorize.system import FusionSystem
from atelier.losses.fusion_loss import FusionLoss
from atelier.losses.lab_picture import lab_picture
from losses.colour_clips import true_clip
from losses.test_fusion_loss import TERMS, Stages


@pytest.fixture(scope="module")
def system() -> FusionSystem:
    torch.manual_seed(0)
    made = FusionSystem(fusion_net=UNetFusionNet(8), flow="dis", exemplar="tiny")
    for weight in made.fusion.parameters():  # the last layer begins at 0 and would hide the others
        weight.data += 0.01 * torch.randn_like(weight)
    return made


def gradients(system: FusionSystem, weights: dict[str, Any]) -> dict[str, Tensor]:
    lab, flow, valid = true_clip(3, frames=4, size=32)
    clip, reference = lab[:, 1:], References(lab[:, :1], ("exemplar",))
    system.zero_grad(set_to_none=True)
    output = system(clip[:, :, :1], reference, flows=ClipFlow(flow[:, 1:], valid[:, 1:]))
    loss = FusionLoss(weights, embed_net=Stages())(output.ab, clip, sequence=output, references=reference)
    loss.backward()
    return {
        group["name"]: torch.cat(
            [(torch.zeros_like(w) if w.grad is None else w.grad).flatten() for w in group["params"]]
        )
        for group in system.get_parameter_groups()
    }


@pytest.mark.parametrize("name", TERMS)
def test_each_term_moves_the_gradient(system: FusionSystem, name: str) -> None:
    whole = gradients(system, TERMS)
    without = gradients(system, {term: value for term, value in TERMS.items() if term != name})
    assert list(whole) == ["swintexco", "fusion"]
    for part in whole:
        assert torch.isfinite(whole[part]).all()
        if (name, part) != ("exemplar", "fusion"):  # the exemplar term is the matcher's own
            assert (whole[part] - without[part]).norm() > 1e-6, part
    if name == "exemplar":
        torch.testing.assert_close(whole["fusion"], without["fusion"])


def test_the_guide_s_training_step(system: FusionSystem) -> None:
    """Lists of frames in, one step of Adam, and the loss is smaller."""
    lab, _, _ = true_clip(3, frames=4, size=32)
    frames, picture = list(lab[0, 1:]), lab_picture(lab[0, 0, :1], lab[0, 0, 1:])
    criterion, optimiser = FusionLoss(), torch.optim.Adam(system.parameters(), lr=1e-4)
    losses = []
    for _ in range(3):
        system.reset_memory()
        outputs, carried, confidences = system.forward_sequence(frames, None, [picture], return_memflow=True)
        if losses:
            loss = criterion(outputs, frames, carried, confidences)
        else:
            with pytest.warns(UserWarning, match="flows="):
                loss = criterion(outputs, frames, carried, confidences)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[2] < losses[0]
