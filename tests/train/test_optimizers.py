"""Optimisers against their published formulas, exact resume, and steps that the device skips."""

from __future__ import annotations

import copy
import io
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from atelier.errors import UserError
from atelier.train.gradients import clip_gradients, gradient_norm
from atelier.train.optimizers import (
    OPTIMIZERS,
    AdamOptions,
    AdamWOptions,
    AdamWScheduleFreeOptions,
    OptimizerOptions,
    SGDOptions,
    averaged_weights,
    begin_at_weights,
    guarded_step,
    take_up,
)

CPU = torch.device("cpu")
ALL = [
    AdamOptions(lr=0.01, weight_decay=0.1),
    AdamWOptions(lr=0.01, weight_decay=0.1),
    SGDOptions(lr=0.01, momentum=0.9, weight_decay=0.1),
    SGDOptions(lr=0.01),
    AdamWScheduleFreeOptions(lr=0.01, weight_decay=0.1),
]
each_optimizer = pytest.mark.parametrize(
    "options", ALL, ids=lambda o: f"{o.type}-{getattr(o, 'momentum', '')}"
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.PReLU(3), nn.Conv2d(3, 2, 1))


def set_gradients(net: nn.Module, step: int, fill: float | None = None) -> None:
    generator = torch.Generator().manual_seed(step)
    for param in net.parameters():
        param.grad = torch.randn(param.shape, generator=generator)
        if fill is not None:
            param.grad[..., 0] = fill


def train(net: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last + 1):
        set_gradients(net, step)
        optimizer.step()


def flat(net: nn.Module) -> torch.Tensor:
    return torch.cat([param.detach().flatten() for param in net.parameters()])


def numpy_weights(options: OptimizerOptions, steps: int) -> np.ndarray:
    """The papers' update rules in float64 on all weights as one vector."""
    net = network()
    p = flat(net).double().numpy()
    m, v = np.zeros_like(p), np.zeros_like(p)
    x, z, weight_sum = p.copy(), p.copy(), 0.0
    for step in range(1, steps + 1):
        set_gradients(net, step)
        g = torch.cat([param.grad.flatten() for param in net.parameters()]).double().numpy()
        decay, lr = options.weight_decay, options.lr
        if isinstance(options, SGDOptions):
            m = options.momentum * m + (g + decay * p)
            p = p - lr * m
            continue
        beta1, beta2 = options.betas
        if isinstance(options, AdamWScheduleFreeOptions):  # algorithm 1 of the paper, line by line
            v = beta2 * v + (1 - beta2) * g**2
            gamma = lr * math.sqrt(1 - beta2**step)
            z = z - gamma * g / (np.sqrt(v) + options.eps) - gamma * decay * p
            weight_sum += gamma**2
            c = gamma**2 / weight_sum
            x = (1 - c) * x + c * z
            p = (1 - beta1) * z + beta1 * x
            continue
        if isinstance(options, AdamWOptions):
            p = p * (1 - lr * decay)
        else:
            g = g + decay * p
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        p = p - lr * (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + options.eps)
    return x if isinstance(options, AdamWScheduleFreeOptions) else p


@each_optimizer
def test_twelve_steps_equal_the_published_rule(options):
    net = network()
    optimizer = options.build(net.parameters(), CPU)
    train(net, optimizer, 1, 12)
    with averaged_weights([optimizer]):
        np.testing.assert_allclose(flat(net).numpy(), numpy_weights(options, 12), rtol=2e-5, atol=2e-6)


def test_every_registered_optimiser_builds_with_defaults():
    for name in OPTIMIZERS:
        options = OPTIMIZERS.options_class(name)(type=name)
        optimizer = options.build(network().parameters(), CPU)
        assert optimizer.param_groups[0]["lr"] == options.lr
        assert getattr(optimizer, "_step_supports_amp_scaling", False), (
            "the step can be skipped on the device"
        )


def test_fused_where_the_device_has_it_else_foreach():
    for options in ALL[:3]:
        assert options.build(network().parameters(), CPU).param_groups[0]["fused"] is True
        group = options.build(network().parameters(), torch.device("vulkan")).param_groups[0]
        assert group["foreach"] is True and not group["fused"]


def test_only_what_requires_a_gradient_is_optimised():
    net = network()
    net[0].requires_grad_(False)
    for options in ALL:
        optimizer = options.build(net.parameters(), CPU)
        assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in net[1:].parameters()]


@each_optimizer
def test_resume_from_a_file_is_bit_exact(options):
    whole = network()
    whole_optimizer = options.build(whole.parameters(), CPU)
    train(whole, whole_optimizer, 1, 9)

    first = network()
    first_optimizer = options.build(first.parameters(), CPU)
    train(first, first_optimizer, 1, 5)
    file = io.BytesIO()
    with averaged_weights([first_optimizer]):  # a checkpoint holds the weights to use, not those to train
        torch.save({"net": first.state_dict(), "optimizer": first_optimizer.state_dict()}, file)
    file.seek(0)
    stored = torch.load(file, weights_only=True)
    second = network()
    second.load_state_dict(stored["net"])
    second_optimizer = options.build(second.parameters(), CPU)
    take_up(second_optimizer, stored["optimizer"])
    assert_same_state(second_optimizer.state_dict(), stored["optimizer"])
    train(second, second_optimizer, 6, 9)

    assert torch.equal(flat(whole), flat(second))
    with averaged_weights([whole_optimizer, second_optimizer]):
        assert torch.equal(flat(whole), flat(second))


CHANGED = [
    (ALL[0], AdamOptions(lr=0.01, weight_decay=0.5, betas=(0.5, 0.6), eps=1e-3)),
    (ALL[0], ALL[1]),  # the same decay, which Adam adds to the gradient and AdamW takes off the weights
    (ALL[1], ALL[0]),
    (ALL[2], SGDOptions(lr=0.01, momentum=0.5, weight_decay=0.3)),
    (ALL[4], AdamWScheduleFreeOptions(lr=0.01, weight_decay=0.3, betas=(0.7, 0.9), eps=1e-3)),
]


@pytest.mark.parametrize(("before", "after"), CHANGED, ids=lambda o: o.type)
def test_settings_changed_since_are_the_new_ones(before, after):
    """As if they had been changed in the running optimiser, by hand; the moments stay."""
    running, resumed = network(), network()
    first = before.build(running.parameters(), CPU)
    train(running, first, 1, 5)
    stored = copy.deepcopy(first.state_dict())
    resumed.load_state_dict(running.state_dict())
    second = after.build(resumed.parameters(), CPU)
    fresh = {key: value for key, value in second.param_groups[0].items() if key in second.defaults}
    take_up(second, stored)

    first.param_groups[0].update(fresh)
    if isinstance(after, AdamWScheduleFreeOptions):
        first.train()  # where gradients are taken depends on the betas
    assert_same_state(second.state_dict(), first.state_dict())
    for net, optimizer in ((running, first), (resumed, second)):
        train(net, optimizer, 6, 8)
    assert torch.equal(flat(running), flat(resumed))


def test_the_rate_that_was_used_last_is_kept():
    optimizer = ALL[0].build(network().parameters(), CPU)
    stored = optimizer.state_dict()
    stored["param_groups"][0] |= {"lr": 0.002, "rate": 0.1}
    take_up(optimizer, stored)
    assert optimizer.param_groups[0]["lr"] == 0.002
    assert "rate" not in optimizer.param_groups[0]  # a share of a group that this run has not


def test_momentum_that_begins_or_ends_at_a_resume():
    without, net = network(), network()
    plain = SGDOptions(lr=0.01).build(without.parameters(), CPU)
    train(without, plain, 1, 2)
    heavy = SGDOptions(lr=0.01, momentum=0.9).build(net.parameters(), CPU)
    take_up(heavy, plain.state_dict())
    assert all(not bool(heavy.state[param]["momentum_buffer"].any()) for param in net.parameters())
    train(net, heavy, 3, 4)
    take_up(plain, heavy.state_dict())
    assert plain.state_dict()["state"] == {}


def test_an_optimiser_of_another_number_of_groups_is_refused():
    net = network()
    stored = torch.optim.Adam([{"params": list(net[0].parameters())}, {"params": list(net[1:].parameters())}])
    with pytest.raises(ValueError, match="parameter groups"):
        take_up(ALL[0].build(net.parameters(), CPU), stored.state_dict())


def test_a_schedule_free_optimiser_begins_at_weights_loaded_later():
    net, optimizer = schedule_free()
    train(net, optimizer, 1, 2)
    with torch.no_grad():
        for param in net.parameters():
            param.fill_(0.25)
    begin_at_weights(optimizer)
    group = optimizer.param_groups[0]
    assert group["step"] == 0 and group["weight_sum"] == 0
    group["lr"] = 0.0
    train(net, optimizer, 3, 3)
    assert bool((flat(net) == 0.25).all())
    with averaged_weights([optimizer]):
        assert bool((flat(net) == 0.25).all())


def test_resume_without_the_optimiser_s_state_differs():
    """Teeth of the test above: momentum that is left out shows."""
    whole, part = network(), network()
    train(whole, ALL[0].build(whole.parameters(), CPU), 1, 9)
    train(part, ALL[0].build(part.parameters(), CPU), 1, 5)
    train(part, ALL[0].build(part.parameters(), CPU), 6, 9)
    assert not torch.equal(flat(whole), flat(part))


@each_optimizer
@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("bad_step", [1, 4])
def test_a_skipped_step_leaves_weights_and_state_bit_for_bit(options, poison, bad_step):
    poisoned, clean = network(), network()
    one, two = (options.build(net.parameters(), CPU) for net in (poisoned, clean))
    for step in range(1, 8):
        if step == bad_step:
            before = copy.deepcopy((flat(poisoned), one.state_dict()))
            set_gradients(poisoned, step, fill=poison)
            guarded_step(one, torch.ones(()))
            assert torch.equal(flat(poisoned), before[0])
            assert_same_state(one.state_dict(), before[1])
        else:
            for net, optimizer in ((poisoned, one), (clean, two)):
                set_gradients(net, step)
                guarded_step(optimizer, torch.zeros(()))
    assert torch.equal(flat(poisoned), flat(clean))
    assert bool(flat(clean).isfinite().all())


def assert_same_state(now: dict, before: dict) -> None:
    """Equal in every tensor; state that did not exist before may only be zeros."""
    for key, state in now["state"].items():
        for name, value in state.items():
            old = before["state"].get(key, {}).get(name)
            assert torch.equal(value, old if old is not None else torch.zeros_like(value)), name
    for group, old_group in zip(now["param_groups"], before["param_groups"], strict=True):
        assert {k: v for k, v in group.items() if k != "params"} == {
            k: v for k, v in old_group.items() if k != "params"
        }


@each_optimizer
def test_without_the_flag_the_poison_arrives(options):
    """Teeth of the test above."""
    net = network()
    optimizer = options.build(net.parameters(), CPU)
    set_gradients(net, 1, fill=math.nan)
    guarded_step(optimizer, torch.zeros(()))
    assert not bool(flat(net).isfinite().all())


@each_optimizer
def test_a_flag_of_zero_changes_nothing(options):
    one, two = network(), network()
    first, second = (options.build(net.parameters(), CPU) for net in (one, two))
    for step in range(1, 6):
        set_gradients(one, step)
        set_gradients(two, step)
        guarded_step(first, torch.zeros(()))
        guarded_step(second)
    assert torch.equal(flat(one), flat(two))
    assert not hasattr(first, "found_inf")


@each_optimizer
def test_a_guarded_step_never_waits_for_the_device(options, no_host_sync):
    net = network()
    optimizer = options.build(net.parameters(), CPU)
    with no_host_sync():
        for step in (1, 2):
            set_gradients(net, step)
            norm = clip_gradients(list(net.parameters()), 1.0)
            guarded_step(optimizer, norm.isfinite().logical_not().float())


@each_optimizer
def test_works_under_a_grad_scaler(options):
    """The scaler hands its scale to the optimiser; powers of two change no bit. Steps it skips leave no trace."""
    scaled, plain = network(), network()
    one, two = (options.build(net.parameters(), CPU) for net in (scaled, plain))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.zeros(()))
    for step in range(1, 6):
        set_gradients(scaled, step, fill=math.inf if step == 3 else None)
        for param in scaled.parameters():
            param.grad *= scaler.get_scale()
        scaler.step(one)
        scaler.update()
        if step != 3:
            set_gradients(plain, step)
            two.step()
    assert scaler.get_scale() == 512
    torch.testing.assert_close(flat(scaled), flat(plain), rtol=1e-6, atol=1e-7)


# schedule-free


def schedule_free() -> tuple[nn.Module, torch.optim.Optimizer]:
    net = network()
    return net, AdamWScheduleFreeOptions(lr=0.01).build(net.parameters(), CPU)


def test_looking_at_the_average_does_not_change_training():
    watched, watched_optimizer = schedule_free()
    alone, alone_optimizer = schedule_free()
    for step in range(1, 8):
        train(watched, watched_optimizer, step, step)
        training = flat(watched)
        with averaged_weights([watched_optimizer]):
            assert not torch.equal(flat(watched), training) or step == 1
        assert torch.equal(flat(watched), training)
        train(alone, alone_optimizer, step, step)
    assert torch.equal(flat(watched), flat(alone))


def test_the_average_comes_back_after_an_exception_and_nesting_is_harmless():
    net, optimizer = schedule_free()
    train(net, optimizer, 1, 3)
    training = flat(net)
    with pytest.raises(KeyboardInterrupt), averaged_weights([optimizer]):
        average = flat(net)
        with averaged_weights([optimizer]):
            assert torch.equal(flat(net), average)
        assert torch.equal(flat(net), average)
        raise KeyboardInterrupt
    assert torch.equal(flat(net), training)


def test_a_step_in_eval_mode_is_an_error():
    net, optimizer = schedule_free()
    set_gradients(net, 1)
    with averaged_weights([optimizer]), pytest.raises(RuntimeError, match="eval mode"):
        optimizer.step()


def test_other_optimisers_have_no_second_set_of_weights():
    net = network()
    optimizer = AdamOptions().build(net.parameters(), CPU)
    train(net, optimizer, 1, 2)
    before = flat(net)
    with averaged_weights([optimizer]):
        assert torch.equal(flat(net), before)


def test_a_steps_rate_enters_its_weight_in_the_average():
    """Warm-up: with rate 0 in the first step nothing moves and nothing is divided by zero."""
    net, optimizer = schedule_free()
    before = flat(net)
    optimizer.param_groups[0]["lr"] = 0.0
    train(net, optimizer, 1, 1)
    assert torch.equal(flat(net), before)
    optimizer.param_groups[0]["lr"] = 0.01
    train(net, optimizer, 2, 2)
    with averaged_weights([optimizer]):  # the first step that counts is the whole average: x = z
        state = optimizer.state[net[0].weight]
        assert torch.equal(state["x"], state["z"]) and torch.equal(net[0].weight, state["x"])


def test_a_parameter_without_gradient_stays():
    net, optimizer = schedule_free()
    set_gradients(net, 1)
    net[0].weight.grad = None
    before = net[0].weight.detach().clone()
    optimizer.step()
    assert torch.equal(net[0].weight, before)
    net.zero_grad()
    weights = flat(net)
    optimizer.step()
    assert torch.equal(flat(net), weights)


# gradients and options


def test_norm_and_clipping_by_hand():
    params = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(3))]
    params[0].grad, params[1].grad = torch.tensor([1.0, 2.0]), torch.tensor([2.0])
    assert gradient_norm(params).item() == 3
    assert clip_gradients(params, 5.0).item() == 3
    assert params[0].grad.tolist() == [1.0, 2.0]
    assert clip_gradients(params, 1.5).item() == 3
    assert params[0].grad.tolist() == pytest.approx([0.5, 1.0]) and params[1].grad.item() == pytest.approx(
        1.0
    )
    assert gradient_norm(params[2:]).item() == 0


def test_norm_of_a_bad_gradient_is_bad():
    param = nn.Parameter(torch.zeros(2))
    param.grad = torch.tensor([1.0, math.nan])
    assert gradient_norm([param]).isnan()


@pytest.mark.parametrize(
    "keys",
    [{"lr": 0}, {"lr": math.inf}, {"betas": (0.9, 1.0)}, {"betas": (0.9,)}, {"weight_decay": -1}, {"eps": 0}],
)
def test_values_out_of_range_are_errors(keys):
    for name in ("Adam", "AdamW", "AdamWScheduleFree"):
        with pytest.raises(ValidationError):
            OPTIMIZERS.options_class(name)(type=name, **keys)


def test_unknown_key_and_unknown_name():
    with pytest.raises(ValidationError, match="momentum"):
        AdamOptions(momentum=0.9)
    with pytest.raises(UserError, match="did you mean 'AdamW'"):
        OPTIMIZERS.options_class("adamw")


def test_groups_keep_the_settings_and_take_their_own_rates() -> None:
    from atelier.objectives.base import ParameterGroup
    from atelier.train.optimizers import OPTIMIZERS, split_groups

    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    options = OPTIMIZERS.options_class("AdamW")(type="AdamW", lr=1e-3, weight_decay=0.1)
    optimizer = split_groups(
        options.build([first, second], torch.device("cpu")),
        [ParameterGroup("slow", [first], 0.1), ParameterGroup("fast", [second])],
    )
    for group in optimizer.param_groups:
        assert group["weight_decay"] == 0.1
        group["lr"] = 1e-3 * group["rate"]
    for parameter in (first, second):
        parameter.grad = torch.ones(2)
    optimizer.step()
    moved = [1 - float(each[0].detach()) for each in (first, second)]
    assert moved[0] == pytest.approx(0.1 * moved[1], rel=1e-3)
    again = torch.optim.AdamW([{"params": [first]}, {"params": [second]}])
    again.load_state_dict(optimizer.state_dict())
    assert [group["name"] for group in again.param_groups] == ["slow", "fast"]


def test_every_group_counts_its_own_steps() -> None:
    from atelier.objectives.base import ParameterGroup
    from atelier.train.optimizers import split_groups

    options = AdamWScheduleFreeOptions(lr=0.01)
    nets = [network(), network()]
    whole = options.build(nets[0].parameters(), CPU)
    parts = split_groups(
        options.build(nets[1].parameters(), CPU),
        [
            ParameterGroup("one", list(nets[1][0].parameters())),
            ParameterGroup("two", list(nets[1][1:].parameters())),
        ],
    )
    for net, optimizer in zip(nets, (whole, parts), strict=True):
        train(net, optimizer, 1, 4)
    assert torch.equal(flat(nets[0]), flat(nets[1]))
    again = copy.deepcopy(parts.state_dict())
    shared = again["param_groups"][0]["step"]
    again["param_groups"][1]["step"] = shared  # as older checkpoints have it
    take_up(parts, again)
    assert parts.param_groups[0]["step"] is not parts.param_groups[1]["step"]
