from __future__ import annotations

import pytest
import torch
from torch import nn

from atelier.archs.dncnn import DnCNN
from atelier.train.ema import EMA


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 3, 1))


def move(net: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for param in net.parameters():
            param.add_(torch.randn(param.shape, generator=generator))
    net.train()(torch.randn(2, 3, 8, 8, generator=generator))


def test_five_updates_equal_the_formula():
    net = network()
    ema = EMA(net, 0.9)
    expected = {name: param.detach().double().clone() for name, param in net.named_parameters()}
    for step in range(5):
        move(net, step)
        ema.update()
        for name, param in net.named_parameters():
            expected[name] = 0.9 * expected[name] + 0.1 * param.detach().double()
    for name, param in ema.net.named_parameters():
        torch.testing.assert_close(param.double(), expected[name], rtol=1e-6, atol=1e-6)


def test_decay_zero_is_the_network_itself_in_eval_mode():
    net = network()
    ema = EMA(net, 0.0)
    move(net, 1)
    ema.update()
    picture = torch.rand(1, 3, 8, 8)
    assert torch.equal(ema.net(picture), net.eval()(picture))  # buffers of the batch norm included


def test_buffers_are_copied():
    net = network()
    ema = EMA(net, 0.999)
    move(net, 1)
    assert not torch.equal(ema.net[1].running_mean, net[1].running_mean)
    ema.update()
    for mine, theirs in zip(ema.net.buffers(), net.buffers(), strict=True):
        assert torch.equal(mine, theirs) and mine.data_ptr() != theirs.data_ptr()


def test_validating_the_average_leaves_the_network_alone():
    net = network().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    picture = torch.rand(1, 3, 8, 8)
    random = torch.get_rng_state()
    ema = EMA(net, 0.5)
    ema.net(picture)
    assert torch.equal(torch.get_rng_state(), random)  # no dropout in eval mode, nothing drawn
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert net.training and all(param.requires_grad for param in net.parameters())
    assert not ema.net.training and not any(param.requires_grad for param in ema.net.parameters())


def test_names_are_the_network_s_and_resume_is_bit_exact():
    net, other = network(), network()
    whole, first = EMA(net, 0.99), EMA(other, 0.99)
    for step in range(3):
        for each, ema in ((net, whole), (other, first)):
            move(each, step)
            ema.update()
    resumed = network()
    resumed.load_state_dict(other.state_dict())
    second = EMA(resumed, 0.99)
    second.load_state_dict({name: tensor.clone() for name, tensor in first.state_dict().items()})
    assert list(first.state_dict()) == list(net.state_dict())
    for step in range(3, 6):
        for each, ema in ((net, whole), (resumed, second)):
            move(each, step)
            ema.update()
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_a_state_of_another_network_is_refused():
    with pytest.raises(RuntimeError, match="Missing key"):
        EMA(network(), 0.9).load_state_dict({"0.weight": torch.zeros(4, 3, 3, 3)})


def test_an_update_never_waits_for_the_device(no_host_sync):
    ema = EMA(network(), 0.9)
    with no_host_sync():
        ema.update()


def test_an_update_marks_the_weights_as_changed():
    """Whoever caches what it derives from weights can see that they are new."""
    ema = EMA(network(), 0.9)
    versions = [param._version for param in ema.net.parameters()]
    ema.update()
    assert [param._version for param in ema.net.parameters()] == [old + 1 for old in versions]


def test_shared_weights_are_averaged_once():
    net = network()
    net.twin = net[0]
    ema = EMA(net, 0.5)
    start = net[0].bias.detach().clone()
    with torch.no_grad():
        net[0].bias += 1
    ema.update()
    torch.testing.assert_close(ema.net[0].bias, start + 0.5)
    assert ema.net.twin is ema.net[0]


def test_a_network_without_buffers():
    net = nn.Linear(2, 2)
    EMA(net, 0.9).update()


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_cannot_average_is_an_error(decay):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        EMA(network(), decay)


def test_a_wrapped_network_is_refused():
    data_parallel = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(data_parallel)  # only its kind matters here, no process group is needed
    for wrapped in (torch.compile(network(), backend="eager"), data_parallel):
        with pytest.raises(ValueError, match="bare network"):
            EMA(wrapped, 0.9)


def test_regional_compile_stays_outside():
    """``Module.compile`` in place leaves names alone; the average is an ordinary copy."""
    net = network()
    net[0].compile(backend="eager")
    ema = EMA(net, 0.9)
    assert list(ema.state_dict()) == list(network().state_dict())


def test_an_averaged_dncnn_equals_the_network_once_its_weights_do():
    """Its running statistics come along, so nothing is left that differs."""
    torch.manual_seed(0)
    net = DnCNN(1, 1, 6, 5, "BR")
    ema = EMA(net, 0.9)
    picture = torch.rand(2, 1, 12, 12)
    for step in range(3):
        with torch.no_grad():
            for param in net.parameters():
                param.add_(0.05 * torch.randn(param.shape, generator=torch.Generator().manual_seed(step)))
        net(picture)
        ema.update()
    assert not torch.allclose(ema.net(picture), net.eval()(picture), atol=1e-4)
    net.train()
    for _ in range(300):
        ema.update()  # 0.9 to the 300th is nothing in float32
    torch.testing.assert_close(ema.net(picture), net.eval()(picture), rtol=0, atol=1e-5)
    assert int(ema.net.model[3].num_batches_tracked) == 3
