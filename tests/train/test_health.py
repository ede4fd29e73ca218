from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from atelier.errors import RunStopped
from atelier.train.gradients import gradient_norm
from atelier.train.health import Health, HealthOptions
from atelier.train.optimizers import AdamOptions, guarded_step


def terms(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def norm(value: float = 1.0) -> torch.Tensor:
    return torch.tensor(value)


def sample(step: int) -> list[str]:
    return [f"{step:04d}.png @ 0,{place}" for place in range(2)]


def test_a_good_run_is_silent_and_forgets_its_samples():
    health = Health(HealthOptions())
    for step in range(1, 300):
        health.watch(step, terms(l_g_pix=0.5, l_g_ssim=0.1), norm(), sample(step))
        if step % 100 == 0:
            health.verdict()
            assert not health._samples
    assert health.fault() is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_bad_step_its_term_and_its_samples_are_named(value):
    health = Health(HealthOptions())
    for step in range(1, 11):
        bad = value if step >= 7 else 0.1
        health.watch(step, terms(l_g_pix=0.5, l_g_percep=bad), norm(bad if step >= 8 else 1.0), sample(step))
    with pytest.raises(RunStopped) as stopped:
        health.verdict()
    text = str(stopped.value)
    assert "step 7: l_g_percep not finite" in text
    assert "0007.png @ 0,0; 0007.png @ 0,1" in text and "0008.png" not in text
    assert "l_g_pix" not in text and "gradient" not in text
    assert "No checkpoint is written from here on" in text
    with pytest.raises(RunStopped):  # asking twice gives the same answer
        health.verdict()


def test_a_bad_gradient_with_finite_losses_is_found():
    health = Health(HealthOptions())
    health.watch(1, terms(l_g_pix=0.5), norm(math.inf), sample(1))
    fault = health.fault()
    assert fault is not None and fault.names == ("the gradient of net_g",) and fault.step == 1


def test_steps_before_and_after_a_verdict_are_not_mixed():
    health = Health(HealthOptions())
    health.watch(1, terms(l_g_pix=0.5), norm(), sample(1))
    health.verdict()
    health.watch(2, terms(l_g_pix=math.nan), norm(), sample(2))
    fault = health.fault()
    assert fault is not None and fault.step == 2 and fault.samples == tuple(sample(2))


def test_terms_that_come_and_go_and_several_networks():
    health = Health(HealthOptions())
    for step in range(1, 6):
        if step % 2:
            health.watch(step, terms(l_g_gan=0.1), norm(), sample(step))
        bad = math.nan if step == 4 else 0.1
        health.watch(step, terms(l_d_real=bad, l_d_fake=bad), norm(bad), sample(step), role="d")
    fault = health.fault()
    assert fault is not None
    assert fault.step == 4 and fault.names == ("l_d_real", "l_d_fake", "the gradient of net_d")
    assert fault.samples == tuple(sample(4))


def test_long_lists_of_samples_are_cut_in_the_message():
    health = Health(HealthOptions(samples_shown=3))
    health.watch(1, terms(l_g_pix=math.nan), None, [f"{number}.png" for number in range(10)])
    with pytest.raises(RunStopped, match=r"0\.png; 1\.png; 2\.png; and 7 more"):
        health.verdict()


def test_watching_never_waits_for_the_device(no_host_sync):
    health = Health(HealthOptions())
    with no_host_sync():
        for step in range(1, 4):
            health.guard(norm(math.nan))
            health.watch(step, terms(l_g_pix=math.nan), norm(math.nan), sample(step), scaled=step == 3)
    assert health.fault() is not None


def test_the_no_sync_guard_has_teeth(no_host_sync):
    with pytest.raises(AssertionError, match="waits for the device"), no_host_sync():
        bool(norm().isfinite())


def test_weights_at_the_stop_are_those_of_the_last_good_step():
    """A picture turns the loss to NaN at step 4; the flag is read at step 10."""
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    optimizer = AdamOptions(lr=0.1).build(net.parameters(), torch.device("cpu"))
    health = Health(HealthOptions())
    for step in range(1, 11):
        picture = torch.full((2, 3), math.nan if step == 4 else float(step))
        loss = net(picture).square().mean()
        optimizer.zero_grad()
        loss.backward()
        size = gradient_norm(list(net.parameters()))
        guarded_step(optimizer, health.guard(size))
        health.watch(step, {"l_g_pix": loss}, size, sample(step))
        if step == 3:
            good = net.weight.detach().clone()
    with pytest.raises(RunStopped, match="step 4: l_g_pix, the gradient of net_g"):
        health.verdict()
    assert torch.equal(net.weight, good)


def test_a_scaler_may_skip_steps_but_not_for_ever():
    health = Health(HealthOptions(max_skipped_steps=3))
    for step, value in enumerate([math.inf, math.inf, 1.0, math.inf, math.inf, 1.0], start=1):
        health.watch(step, terms(l_g_pix=0.1), norm(value), sample(step), scaled=True)
    health.verdict()
    for step in range(7, 12):
        health.watch(step, terms(l_g_pix=0.1), norm(math.inf), sample(step), scaled=True)
    fault = health.fault()
    assert fault is not None and fault.step == 9 and fault.names == ("the gradient of net_g",)


def test_a_bad_loss_stops_an_fp16_run_at_once():
    health = Health(HealthOptions())
    health.watch(1, terms(l_g_pix=math.inf), norm(math.inf), sample(1), scaled=True)
    fault = health.fault()
    assert fault is not None and fault.names == ("l_g_pix",)


def test_nothing_watched_is_no_fault():
    health = Health(HealthOptions())
    health.watch(1, {}, None, sample(1))
    health.verdict()


def test_limits_below_one_are_errors():
    for key in ("max_skipped_steps", "samples_shown"):
        with pytest.raises(ValidationError, match=key):
            HealthOptions(**{key: 0})
