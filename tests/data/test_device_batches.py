"""Batches whose lq is made on the device: the same under any number of workers and ranks and after a resume."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from atelier.data.batch import Batch
from atelier.data.options import ValImagesOptions
from atelier.degrade.base import to_float
from atelier.degrade.realesrgan import RealESRGAN
from atelier.randomness import Streams
from data.test_realesrgan_batches import SHAPES, same

DEVICE = {"type": "realesrgan", "run_on": "device", "target_usm": True}


@pytest.mark.parametrize("pool", [False, True])
def test_workers_ranks_threads_and_resuming_change_nothing(
    tmp_path: Any, make_folder: Any, open_data: Any, pool: bool
) -> None:
    make_folder(tmp_path / "gt", SHAPES)
    kind = {**DEVICE, "pool": True, "queue_size": 10} if pool else DEVICE

    def open_(**given: Any) -> Any:
        return open_data(tmp_path / "gt", degradation=kind, gt_size=32, **given)

    reference = list(open_().batches(1, 4))
    assert reference[0].lq.shape == (4, 3, 16, 16) and reference[0].gt.shape == (4, 3, 32, 32)
    assert same(list(open_(num_worker_per_gpu=3).batches(1, 4)), reference)
    assert same(list(open_().batches(3, 4)), reference[2:])
    for world in (2, 4):  # with 4 every sample is alone
        shares = [list(open_(rank=rank, world=world).batches(1, 4)) for rank in range(world)]
        joined = [
            Batch(
                torch.cat([each.lq for each in parts]),
                torch.cat([each.gt for each in parts]),
                [name for each in parts for name in each.samples],
            )
            for parts in zip(*shares, strict=True)
        ]
        assert same(joined, reference)
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    try:
        assert same(list(open_().batches(1, 2)), reference[:2])
    finally:
        torch.set_num_threads(threads)
    assert not torch.equal(reference[0].lq, reference[1].lq)


def test_neighbours_that_drew_the_same_noise_are_noticed(
    tmp_path: Any, make_folder: Any, open_data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One generator for the whole share instead of the samples' own streams: two ranks then differ from one."""
    make_folder(tmp_path / "gt", SHAPES)
    real = RealESRGAN.device_numbers
    made: list[None] = []

    def shared(self: Any, parameters: Any, shape: Any, streams: Streams) -> Any:
        made.append(None)
        return real(self, parameters, shape, Streams(9, 9, len(made)))

    def first_of_rank(rank: int) -> Batch:
        made.clear()
        data = open_data(tmp_path / "gt", degradation=DEVICE, gt_size=32, rank=rank, world=2)
        return next(iter(data.batches(1, 1)))

    whole = next(iter(open_data(tmp_path / "gt", degradation=DEVICE, gt_size=32).batches(1, 1)))
    assert torch.equal(first_of_rank(1).lq, whole.lq[2:])
    monkeypatch.setattr(RealESRGAN, "device_numbers", shared)
    made.clear()
    whole = next(iter(open_data(tmp_path / "gt", degradation=DEVICE, gt_size=32).batches(1, 1)))
    assert not torch.equal(first_of_rank(1).lq, whole.lq[2:])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_crops_and_draws_are_the_workers(tmp_path: Any, make_folder: Any, open_data: Any, dtype: Any) -> None:
    """Same pictures, corners, flips and parameters; gt is equal and lq the operator's own result."""
    make_folder(tmp_path / "gt", SHAPES, dtype=dtype)
    keys = {"type": "realesrgan", "run_on": "device"}
    device = open_data(tmp_path / "gt", degradation=keys, gt_size=32)
    workers = open_data(tmp_path / "gt", degradation={"type": "realesrgan"}, gt_size=32)
    (mine,), (theirs,) = device.batches(2, 2), workers.batches(2, 2)
    assert mine.samples == theirs.samples
    assert torch.equal(mine.gt, theirs.gt) and mine.lq.shape == theirs.lq.shape
    operator = device.assembler.degradation
    for k in range(4):
        assert device.assembler.stages(2, k)[0] == workers.assembler.stages(2, k)[0]
        clean = device.assembler.clean(2, k)
        picture = torch.from_numpy(to_float(clean.pixels)).permute(2, 0, 1)[None]
        own = [torch.from_numpy(each) for each in clean.numbers]
        ((lq, _),) = operator.apply_on_device([picture], [clean.parameters], [own], [None])
        top, left = clean.margins[:2]
        torch.testing.assert_close(mine.lq[k], lq[0, :, top : top + 16, left : left + 16], rtol=0, atol=0)


def test_grey_pictures_and_pictures_smaller_than_a_crop(
    tmp_path: Any, make_folder: Any, open_data: Any
) -> None:
    make_folder(tmp_path / "gt", [(20, 25, 1), (40, 26, 1)])
    data = open_data(
        tmp_path / "gt", degradation=DEVICE, gt_size=32, in_channels=1, small_pictures="pad", dataroot_lq=None
    )
    for batch in data.batches(1, 3):
        assert batch.lq.shape == (4, 1, 16, 16) and batch.gt.shape == (4, 1, 32, 32)
        assert bool(torch.isfinite(batch.lq).all()) and float(batch.lq.std()) > 0.05


def test_validation_sets_refuse_it() -> None:
    with pytest.raises(ValidationError, match="run_on: device is for training"):
        ValImagesOptions(dataroot_gt="bundled", degradation={"type": "realesrgan", "run_on": "device"})
