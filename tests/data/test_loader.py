from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import atelier.data.plan as plan_module
from atelier.data.assemble import Assembler
from atelier.data.batch import Batch
from atelier.data.options import CacheOptions
from atelier.data.plan import SamplePlan
from atelier.errors import RunStopped, UserError
from atelier.images import imresize, read_image, write_image
from atelier.randomness import Streams

SHAPES = [(40, 50, 3), (33, 37, 3), (64, 30, 3), (20, 90, 3), (31, 31, 3)]
NOISE = {"type": "gaussian_noise", "sigma": [5, 50]}


def as_list(batches) -> list[Batch]:
    return list(batches)


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x.gt, y.gt) and torch.equal(x.lq, y.lq) and x.samples == y.samples
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("degradation", [{"type": "bicubic"}, NOISE])
def test_0_1_and_3_workers_and_1_and_2_ranks_see_the_same_global_batches(
    tmp_path, make_folder, open_data, degradation
):
    make_folder(tmp_path / "gt", SHAPES)
    reference = as_list(open_data(tmp_path / "gt", degradation=degradation).batches(1, 5))
    assert [len(batch) for batch in reference] == [4] * 5
    for workers in (1, 3):
        data = open_data(tmp_path / "gt", degradation=degradation, num_worker_per_gpu=workers)
        assert same(as_list(data.batches(1, 5)), reference), f"{workers} workers"
    for workers in (0, 1):
        shares = [
            as_list(
                open_data(
                    tmp_path / "gt", degradation=degradation, rank=rank, world=2, num_worker_per_gpu=workers
                ).batches(1, 5)
            )
            for rank in range(2)
        ]
        joined = [
            Batch(torch.cat([a.lq, b.lq]), torch.cat([a.gt, b.gt]), a.samples + b.samples)
            for a, b in zip(*shares, strict=True)
        ]
        assert same(joined, reference), f"2 ranks, {workers} workers"


def test_continuing_from_the_middle_equals_never_having_stopped(tmp_path, make_folder, open_data):
    make_folder(tmp_path / "gt", SHAPES)
    whole = as_list(open_data(tmp_path / "gt", degradation=NOISE).batches(1, 8))
    assert same(as_list(open_data(tmp_path / "gt", degradation=NOISE).batches(4, 8)), whole[3:])
    assert not torch.equal(whole[0].gt, whole[1].gt)


def test_without_the_cache_the_batches_are_the_same(tmp_path, make_folder, open_data):
    make_folder(tmp_path / "gt", SHAPES)
    cached = as_list(open_data(tmp_path / "gt").batches(1, 3))
    plain = open_data(tmp_path / "gt", cache=CacheOptions(enabled=False, folder=tmp_path / "unused"))
    assert same(as_list(plain.batches(1, 3)), cached)
    assert not (tmp_path / "unused").exists()


class _SharedState(SamplePlan):
    """The field's usual mistake: draws come from a generator that each process advances for itself."""

    generator = np.random.default_rng(0)

    def draw(self, step: int, sample: int) -> plan_module.SampleDraw:
        right = super().draw(step, sample)
        return plan_module.SampleDraw(
            int(self.generator.integers(len(self))), right.y * 0, 0, False, False, False
        )


class _RankSeed(SamplePlan):
    """Sample numbers counted per rank: both ranks then see the same half."""

    def draw(self, step: int, sample: int) -> plan_module.SampleDraw:
        return super().draw(step, sample % 2)


@pytest.mark.parametrize("mutant", [_SharedState, _RankSeed])
def test_the_comparison_has_teeth(tmp_path, make_folder, open_data, mutant):
    make_folder(tmp_path / "gt", SHAPES)
    whole, first, second = (open_data(tmp_path / "gt", rank=r, world=w) for r, w in ((0, 1), (0, 2), (1, 2)))
    reference = as_list(whole.batches(1, 3))
    for data in (first, second):
        data.assembler.plan.__class__ = mutant
    joined = [
        Batch(torch.cat([a.lq, b.lq]), torch.cat([a.gt, b.gt]), a.samples + b.samples)
        for a, b in zip(first.batches(1, 3), second.batches(1, 3), strict=True)
    ]
    assert not same(joined, reference)


def test_resuming_has_teeth(tmp_path, make_folder, open_data):
    """A plan that counts its own calls instead of using the step must fail the resume comparison."""
    make_folder(tmp_path / "gt", SHAPES)
    whole = as_list(open_data(tmp_path / "gt").batches(1, 6))
    data = open_data(tmp_path / "gt")
    data.assembler.plan.__class__ = type(
        "Counting", (SamplePlan,), {"draw": lambda self, step, k: SamplePlan.draw(self, step - 3, k)}
    )
    assert not same(as_list(data.batches(4, 6)), whole[3:])


def test_lq_of_a_crop_is_the_crop_of_the_whole_pictures_lq(tmp_path, make_folder, open_data):
    """Degraded with their surroundings, crops show no border effects of their own."""
    paths = make_folder(tmp_path / "gt", [(40, 50, 3), (41, 53, 3)])
    data = open_data(tmp_path / "gt", use_hflip=False, use_rot=False)
    whole = {}
    for path in paths:
        gt = read_image(path).pixels
        gt = gt[: gt.shape[0] // 2 * 2, : gt.shape[1] // 2 * 2]
        whole[str(path)] = (gt, imresize(np.ascontiguousarray(gt), scale=1 / 2))
    for batch in data.batches(1, 6):
        for lq, gt, name in zip(batch.lq, batch.gt, batch.samples, strict=True):
            place, y, x = re.fullmatch(r"(.*) @ (\d+),(\d+)", name).groups()
            y, x = int(y), int(x)
            large, small = whole[place]
            assert torch.equal(gt, _tensor(large[y : y + 16, x : x + 16]))
            assert torch.equal(lq, _tensor(small[y // 2 : y // 2 + 8, x // 2 : x // 2 + 8]))


def _tensor(pixels) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("small", [(8, 40), (5, 5), (40, 9)])
def test_pairs_stay_aligned_under_flips_and_padding(tmp_path, open_data, small):
    """gt is lq with every pixel doubled, so a misaligned crop, flip or padding shows at once."""
    for number in range(3):
        lq = np.random.default_rng(number).integers(0, 256, (*small, 3)).astype(np.uint8)
        write_image(tmp_path / "lq" / f"p{number}x2.png", lq)
        write_image(tmp_path / "gt" / f"p{number}.png", np.ascontiguousarray(lq.repeat(2, 0).repeat(2, 1)))
    data = open_data(
        tmp_path / "gt", dataroot_lq=tmp_path / "lq", filename_tmpl="{}x2", degradation=None, gt_size=32
    )
    for batch in data.batches(1, 6):
        assert batch.gt.shape == (4, 3, 32, 32)
        assert torch.equal(batch.gt, batch.lq.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_small_clean_pictures_are_mirrored_or_refused(tmp_path, make_folder, open_data):
    (path,) = make_folder(tmp_path / "gt", [(6, 9, 3)])
    data = open_data(tmp_path / "gt", use_hflip=False, use_rot=False, gt_size=20)
    (batch,) = data.batches(1, 1)
    gt = read_image(path).pixels[:, :8]  # nine columns are four lq pixels
    expected = np.pad(gt, ((0, 14), (0, 12), (0, 0)), mode="symmetric")
    assert torch.equal(batch.gt[0], _tensor(expected))
    with pytest.raises(UserError, match=r"p0\.png: 6x9 pixels, smaller than gt_size 20"):
        open_data(tmp_path / "gt", gt_size=20, small_pictures="error")


def test_values_formats_and_names(tmp_path, make_folder, open_data):
    make_folder(tmp_path / "gt", SHAPES)
    (batch,) = open_data(tmp_path / "gt").batches(1, 1)
    assert batch.gt.dtype == batch.lq.dtype == torch.float32
    assert batch.gt.is_contiguous() and batch.lq.is_contiguous()
    assert batch.gt.shape == (4, 3, 16, 16) and batch.lq.shape == (4, 3, 8, 8)
    assert torch.equal(batch.gt, (batch.gt * 255).round() / 255)
    assert all(re.search(r"p\d\.png @ \d+,\d+$", sample) for sample in batch.samples)


def test_16_bit_pictures_keep_their_levels(tmp_path, make_folder, open_data):
    (path,) = make_folder(tmp_path / "gt", [(16, 16, 3)], dtype=np.uint16)
    make_folder(tmp_path / "mixed", [(16, 16, 3), (16, 16, 3)])
    (tmp_path / "mixed" / "p1.png").write_bytes(path.read_bytes())
    data = open_data(tmp_path / "gt", use_hflip=False, use_rot=False)
    (batch,) = data.batches(1, 1)
    wide = read_image(path).pixels
    assert wide.dtype == np.uint16
    expected = torch.from_numpy(wide.astype(np.float32) / np.float32(65535)).permute(2, 0, 1)
    assert torch.equal(batch.gt[0], expected)
    # 8 and 16 bit in one batch: the 8-bit picture's values are those it has alone.
    mixed = as_list(open_data(tmp_path / "mixed", use_hflip=False, use_rot=False).batches(1, 1))[0]
    narrow = _tensor(read_image(tmp_path / "mixed" / "p0.png").pixels)
    found = [torch.equal(gt, narrow) for gt in mixed.gt]
    assert sum(found) == 2


def test_grey_networks_get_the_luma_of_rgb(tmp_path, make_folder, open_data):
    (path,) = make_folder(tmp_path / "gt", [(16, 16, 3)])
    data = open_data(tmp_path / "gt", in_channels=1, use_hflip=False, use_rot=False)
    (batch,) = data.batches(1, 1)
    rgb = read_image(path).pixels.astype(np.float64)
    luma = np.floor(rgb @ [0.299, 0.587, 0.114] + 0.5)
    assert batch.gt.shape == (4, 1, 16, 16)
    assert np.array_equal((batch.gt[0, 0] * 255).round().numpy(), luma)


def test_noise_is_the_streams_own(tmp_path, make_folder, open_data):
    make_folder(tmp_path / "gt", [(16, 16, 3)])
    data = open_data(tmp_path / "gt", scale=1, degradation={"type": "gaussian_noise", "sigma": 25})
    (batch,) = data.batches(3, 3)
    for k in range(4):
        field = Streams(7, 3, k)("noise").standard_normal((16, 16, 3), dtype=np.float32) * np.float32(
            25 / 255
        )
        difference = (batch.lq[k] - batch.gt[k]).permute(1, 2, 0).numpy()
        assert np.allclose(difference, field, atol=1e-6)


def test_split_and_to():
    batch = Batch(torch.arange(6.0).view(6, 1, 1, 1), torch.zeros(6, 1, 2, 2), list("abcdef"))
    assert [part.samples for part in batch.split(3)] == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert torch.equal(torch.cat([part.lq for part in batch.split(2)]), batch.lq)
    with pytest.raises(ValueError, match="6 samples cannot be split into 4"):
        batch.split(4)
    assert batch.to(torch.float64).gt.dtype == torch.float64


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_fails_during_training_is_named(tmp_path, make_folder, open_data, workers):
    paths = make_folder(tmp_path / "gt", [(32, 32, 3)] * 3)
    data = open_data(tmp_path / "gt", cache=CacheOptions(enabled=False), num_worker_per_gpu=workers)
    batches = data.batches(1, 1000)
    next(batches)
    paths[1].write_bytes(paths[1].read_bytes()[:60])
    with pytest.raises(UserError, match=r"p1\.png"):
        for _ in batches:
            pass


def test_a_worker_that_dies_ends_the_run_with_its_reason(tmp_path, make_folder, open_data):
    make_folder(tmp_path / "gt", [(32, 32, 3)])
    data = open_data(tmp_path / "gt", num_worker_per_gpu=1)
    batches = data.batches(1, 10**6)
    next(batches)
    os.kill(data._stepper._running._workers[0].pid, signal.SIGKILL)
    with pytest.raises(RunStopped, match="a loader process died"):
        for _ in batches:
            pass


def test_waiting_is_counted(tmp_path, make_folder, open_data, monkeypatch):
    make_folder(tmp_path / "gt", [(32, 32, 3)])
    data = open_data(tmp_path / "gt")
    assert data.wait_s == 0
    real = Assembler.__getitem__

    def slow(self, step):
        time.sleep(0.02)
        return real(self, step)

    monkeypatch.setattr(Assembler, "__getitem__", slow)
    for batch in data.batches(1, 3):
        waited = data.wait_s
        time.sleep(0.02)  # the step itself does not count
        assert data.wait_s == waited and len(batch) == 4
    assert data.wait_s >= 0.06


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gt_size": 15}, "gt_size 15 is no multiple of scale 2; the nearest ones are 14 and 16"),
        ({"world": 3, "rank": 0}, "global batch of 4 samples cannot be shared evenly by 3 ranks"),
        ({"degradation": None}, "no dataroot_lq"),
    ],
)
def test_mistakes_are_named(tmp_path, make_folder, open_data, given, message):
    make_folder(tmp_path / "gt", [(32, 32, 3)])
    with pytest.raises(UserError, match=message):
        open_data(tmp_path / "gt", **given)


def test_the_fingerprint_is_the_data_sets_not_the_folders(tmp_path, make_folder, open_data):
    make_folder(tmp_path / "a", SHAPES)
    make_folder(tmp_path / "b", SHAPES)
    make_folder(tmp_path / "c", SHAPES[:-1])
    a, b, c = (open_data(tmp_path / name).fingerprint for name in "abc")
    assert a == b != c


SCRIPT = """
import sys
from atelier.data.loader import TrainingData
from atelier.data.options import CacheOptions, TrainImagesOptions
from atelier.degrade.bicubic import Bicubic

if __name__ == "__main__":
    options = TrainImagesOptions(dataroot_gt=sys.argv[1], gt_size=16, num_worker_per_gpu=2)
    data = TrainingData(options, scale=2, degradation=Bicubic(2), seed=0, global_batch=4, in_channels=3,
                        cache=CacheOptions(folder=sys.argv[2]), quiet=True)
    for step, batch in enumerate(data.batches(1, 10**9)):
        if step == 3:
            print(*[worker.pid for worker in data._stepper._running._workers], flush=True)
"""


@pytest.mark.parametrize("ending", ["kill", pytest.param("interrupt", marks=pytest.mark.slow)])
def test_no_worker_outlives_the_training_process(tmp_path, make_folder, ending):
    make_folder(tmp_path / "gt", [(32, 32, 3)])
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    source = str(Path(__file__).resolve().parents[2] / "src")
    trainer = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "gt"), str(tmp_path / "cache")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    assert trainer.stdout is not None
    workers = [int(pid) for pid in trainer.stdout.readline().split()]
    assert len(workers) == 2
    if ending == "kill":
        trainer.kill()
    else:
        os.killpg(trainer.pid, signal.SIGINT)  # what a terminal does: everyone gets it
    trainer.wait(60)
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() and _running(pid) for pid in workers):
        assert time.monotonic() < deadline, "loader processes were left behind"
        time.sleep(0.1)
    trainer.stdout.close()


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("ending", ["break", "close", "end"])
def test_workers_end_with_their_iteration(tmp_path, make_folder, open_data, ending):
    make_folder(tmp_path / "gt", [(32, 32, 3)])
    data = open_data(tmp_path / "gt", num_worker_per_gpu=2)
    workers = []
    for _ in data.batches(1, 4 if ending == "end" else 10**6):
        if not workers:
            workers = list(data._stepper._running._workers)
        elif ending == "break":
            break
        elif ending == "close":
            data.close()
    assert len(workers) == 2
    assert not any(worker.is_alive() for worker in workers)
