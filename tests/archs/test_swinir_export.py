"""Exported SwinIR: any size where height and width are left open; nothing of a trace stays behind in the process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from atelier.archs import SwinIR
from atelier.archs.swinir_windows import Layout, Order, relative_position_index, shift_masks
from atelier.errors import UserError

OPEN = torch.export.Dim.DYNAMIC
#: One window, one or two windows wide or high, many, and sizes that are padded (also by more than a side is long).
SIZES = [(4, 4), (4, 8), (8, 4), (8, 8), (4, 20), (12, 16), (20, 24), (5, 5), (7, 9), (3, 13), (1, 2), (1, 1)]


def small(**options: Any) -> SwinIR:
    torch.manual_seed(0)
    common = {
        "img_size": 16,
        "window_size": 4,
        "embed_dim": 8,
        "depths": [2],
        "num_heads": [2],
        "mlp_ratio": 2,
    }
    net = SwinIR(**(common | options)).eval()
    for name, parameter in net.named_parameters():
        if name.endswith("bias_table"):  # near zero at the start, where a wrong index would not show
            torch.nn.init.normal_(parameter)
    return net


def picture(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


@torch.no_grad()
def agrees(net: SwinIR, program: torch.nn.Module, *shape: int) -> None:
    x = picture(*shape)
    torch.testing.assert_close(program(x), net(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"in_chans": 1, "upsampler": ""},
        {"upscale": 2, "upsampler": "pixelshuffledirect"},
        {"attention": "elsa", "in_chans": 1, "upsampler": "", "elsa": {"kernel_size": 3, "group_width": 2}},
    ],
    ids=["denoiser", "x2", "elsa"],
)
def test_height_and_width_left_open(options: dict[str, Any]) -> None:
    net = small(**options)
    example = picture(1, net.options.in_chans, 12, 20)
    program = torch.export.export(net, (example,), dynamic_shapes=({2: OPEN, 3: OPEN},)).module()
    for size in SIZES:
        agrees(net, program, 1, net.options.in_chans, *size)


@pytest.mark.slow
@pytest.mark.parametrize("upsampler", ["pixelshuffle", "nearest+conv"])
def test_the_larger_heads_left_open(upsampler: str) -> None:
    net = small(upscale=4, upsampler=upsampler)
    program = torch.export.export(
        net, (picture(1, 3, 12, 20),), dynamic_shapes=({2: OPEN, 3: OPEN},)
    ).module()
    for size in SIZES:
        agrees(net, program, 1, 3, *size)


@pytest.mark.slow
def test_the_number_of_pictures_left_open() -> None:
    net = small(in_chans=1, upsampler="")
    program = torch.export.export(
        net, (picture(3, 1, 12, 20),), dynamic_shapes=({0: OPEN, 2: OPEN, 3: OPEN},)
    ).module()
    for batch in (2, 3, 5):
        for size in ((4, 4), (8, 12), (7, 9)):
            agrees(net, program, batch, 1, *size)


@pytest.mark.slow
def test_multiples_of_the_window_under_names() -> None:
    net = small(in_chans=1, upsampler="")
    down, across = torch.export.Dim("down", min=1, max=64), torch.export.Dim("across", min=1, max=64)
    program = torch.export.export(
        net, (picture(1, 1, 12, 20),), dynamic_shapes=({2: 4 * down, 3: 4 * across},)
    ).module()
    for size in ((4, 4), (4, 8), (8, 4), (8, 8), (64, 12)):
        agrees(net, program, 1, 1, *size)


def test_elsa_inside_windows_names_its_limit() -> None:
    net = small(
        attention="elsa",
        in_chans=1,
        upsampler="",
        elsa={"kernel_size": 3, "group_width": 2, "scope": "window"},
    )
    with pytest.raises(UserError, match="fixed size"):
        torch.export.export(net, (picture(1, 1, 12, 20),), dynamic_shapes=({2: OPEN, 3: OPEN},))


def test_an_export_leaves_nothing_behind() -> None:
    """A window size that no other test uses, so that the export is the first to ask for its index and masks."""
    net = small(in_chans=1, upsampler="", window_size=3)
    program = torch.export.export(net, (picture(1, 1, 9, 12),)).module()
    agrees(net, program, 1, 1, 9, 12)
    cpu = torch.device("cpu")
    assert type(relative_position_index(3, cpu)) is Tensor
    assert type(shift_masks(3, cpu, torch.float32)) is Tensor
    assert relative_position_index(3, cpu) is relative_position_index(3, cpu)


@pytest.mark.parametrize("order", ["plain", "shifted"])
def test_open_orders_are_those_of_one_window_after_the_other(order: Order) -> None:
    batch, height, width, window = 2, 8, 12, 4
    layout = Layout(batch, height, width, window, torch.device("cpu"))
    layout.open = True
    rows = torch.arange(batch * height * width)
    grid = rows.view(batch, height, width)
    shift = 2 if order == "shifted" else 0
    grid = grid.roll((-shift, -shift), (1, 2)).view(batch, 2, 4, 3, 4).permute(1, 3, 0, 2, 4)
    there, back = layout.move("image", order), layout.move(order, "image")
    assert torch.equal(there, torch.cat([grid.reshape(-1), grid.reshape(-1)[:16]]))
    assert torch.equal(there[back], rows)
    assert layout.kinds().tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 0]
