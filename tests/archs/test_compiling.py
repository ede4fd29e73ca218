"""Regional compilation: which parts, and their results where a compiler is at hand."""

from __future__ import annotations

import shutil

import pytest
import torch

from archs.examples import picture, small_swinir
from atelier.archs import SRVGGNetCompact, compile_blocks
from atelier.archs.compiling import repeated_parts


def test_the_repeated_parts() -> None:
    net = small_swinir(depths=(2, 3), resi_connection="3conv")
    parts = repeated_parts(net)
    layers = [block for group in net.layers for block in group.residual_group.blocks]
    assert len(parts) == 5
    assert all(part is layer for part, layer in zip(parts, layers, strict=True))
    compact = SRVGGNetCompact(num_feat=4, num_conv=1, upscale=2)
    assert repeated_parts(compact) == [compact]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_agrees() -> None:
    net, x = small_swinir(depths=(2,), num_heads=(2,)), picture(1, 3, 16, 24)
    names = list(net.state_dict())
    with torch.no_grad():
        expected = net(x)
        compile_blocks(net)
        assert list(net.state_dict()) == names
        torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-5)
