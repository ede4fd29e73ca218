"""Batches of the second-order degradation: the same everywhere, the pool, and the preview of its steps."""

from __future__ import annotations

import json

import pytest
import torch

from atelier.data.batch import Batch
from atelier.data.preview import clean_caption, preview_sheet
from atelier.images import read_image

SHAPES = [(90, 100, 3), (83, 77, 3), (64, 70, 3)]
SECOND = {"type": "realesrgan", "queue_size": 10}


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x.gt, y.gt) and torch.equal(x.lq, y.lq) and x.samples == y.samples
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("kind", [SECOND, {**SECOND, "pool": True}, {"type": "infrared"}])
def test_workers_ranks_and_resuming_change_nothing(tmp_path, make_folder, open_data, kind):
    make_folder(tmp_path / "gt", SHAPES)

    def open_(**given):
        return open_data(tmp_path / "gt", degradation=kind, gt_size=32, **given)

    reference = list(open_().batches(1, 4))
    assert same(list(open_(num_worker_per_gpu=4).batches(1, 4)), reference)
    assert same(list(open_().batches(3, 4)), reference[2:])
    shares = [list(open_(rank=rank, world=2).batches(1, 4)) for rank in range(2)]
    joined = [
        Batch(torch.cat([a.lq, b.lq]), torch.cat([a.gt, b.gt]), a.samples + b.samples)
        for a, b in zip(*shares, strict=True)
    ]
    assert same(joined, reference)
    assert not torch.equal(reference[0].lq, reference[1].lq)


def test_two_epochs_of_one_picture_are_degraded_differently(tmp_path, make_folder, open_data):
    make_folder(tmp_path / "gt", [(40, 40, 3)])
    data = open_data(
        tmp_path / "gt", degradation=SECOND, gt_size=40, use_hflip=False, use_rot=False, global_batch=1
    )
    first, second = data.batches(1, 2)
    assert torch.equal(first.gt, second.gt) and not torch.equal(first.lq, second.lq)


def test_the_pool_hands_out_pairs_of_earlier_steps(tmp_path, make_folder, open_data):
    """10 pairs and batches of 4: not divisible, which the original refuses."""
    make_folder(tmp_path / "gt", SHAPES)
    fresh = open_data(tmp_path / "gt", degradation=SECOND, gt_size=32)
    pooled = open_data(tmp_path / "gt", degradation={**SECOND, "pool": True}, gt_size=32)
    plan = pooled.assembler.plan
    ages = []
    for step in range(1, 60):
        for k in range(4):
            origin = plan.origin(step, k)
            if origin != (step, k):
                ages.append((step - origin[0]) * 4 - origin[1])
            else:
                assert step <= 3  # ten pairs have passed after two and a half steps
            assert origin == plan.origin(step, k) and fresh.assembler.plan.origin(step, k) == (step, k)
    assert set(ages) == set(range(1, 11))
    (batch,) = pooled.batches(6, 6)
    for k in range(4):
        step, place = plan.origin(6, k)
        (old,) = fresh.batches(step, step)
        assert torch.equal(batch.lq[k], old.lq[place]) and torch.equal(batch.gt[k], old.gt[place])
        assert batch.samples[k] == old.samples[place]


def test_preview_shows_every_step_with_every_number(tmp_path, make_folder, open_data):
    make_folder(tmp_path / "gt", SHAPES)
    data = open_data(tmp_path / "gt", degradation=SECOND, gt_size=32)
    preview_sheet(data, tmp_path / "sheet.png", steps=[2], stages=2)
    records = json.loads((tmp_path / "sheet_steps.json").read_text())
    assert [(record["step"], record["sample"]) for record in records] == [(2, 0), (2, 1)]
    sheet = read_image(tmp_path / "sheet_steps.png").pixels
    longest = 0
    for record in records:
        parameters, clean, stages = data.assembler.stages(2, record["sample"])
        assert record["parameters"] == parameters
        assert [label.partition(":")[0] for label, _ in stages[:-1]] == [s["op"] for s in parameters["steps"]]
        assert stages[-1][1].shape[0] == clean.shape[0] // 2
        longest = max(longest, len(stages) + 1)
    assert sheet.shape[1] >= longest * 256 and sheet.std() > 10
    # The last stage, trimmed, is what the network sees.
    (batch,) = data.batches(2, 2)
    lq = torch.from_numpy(data.assembler.stages(2, 0)[2][-1][1]).permute(2, 0, 1) / 255
    target = batch.lq[0]
    found = any(
        torch.equal(lq[:, y : y + 16, x : x + 16], target)
        for y in range(lq.shape[1] - 15)
        for x in range(lq.shape[2] - 15)
    )
    assert found


def test_the_first_caption_tells_what_the_steps_do_not_show(tmp_path, make_folder, open_data):
    make_folder(tmp_path / "gt", SHAPES)
    told = {}
    for prob in (0.0, 1.0):
        data = open_data(tmp_path / "gt", degradation={**SECOND, "second_stage_prob": prob}, gt_size=32)
        told[prob] = clean_caption(data, 2, 1, data.assembler.stages(2, 1)[0])
    assert told == {0.0: "step 2, sample 1: clean; second stage: not drawn", 1.0: "step 2, sample 1: clean"}
    data = open_data(tmp_path / "gt", degradation={**SECOND, "run_on": "device"}, gt_size=32)
    caption = clean_caption(data, 2, 1, data.assembler.stages(2, 1)[0])
    assert caption.endswith("; run_on: device, but the steps shown are the processor's")


def test_preview_of_pairs_has_no_steps(tmp_path, make_folder, open_data):
    make_folder(tmp_path / "gt", [(32, 32, 3)] * 2)
    make_folder(tmp_path / "lq", [(16, 16, 3)] * 2)
    data = open_data(tmp_path / "gt", dataroot_lq=tmp_path / "lq", degradation=None)
    preview_sheet(data, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet_steps.png").exists()
