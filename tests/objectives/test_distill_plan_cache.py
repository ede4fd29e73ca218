"""Stored answers: the same run bit for bit without calling the teacher, and never another run's answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from atelier.archs import SRVGGNetCompact
from atelier.archs.weights import save_weights
from atelier.errors import RunStopped, UserError
from atelier.objectives.base import Setting
from atelier.objectives.distill.answer_shards import differences
from atelier.objectives.distill.options import PlanCacheOptions, TeacherOptions
from atelier.objectives.distill.plan_cache import Moment, PlanCache, input_digests
from atelier.objectives.distill.teacher import Teacher, read_teacher
from atelier.train.run import train
from support import small_run

UPCYCLE = {
    "response": {"weight": 0.2},
    "upcycle": {"weight": 0.2, "tiles": 2, "zoom_out": True},
}


def write_teacher(path: Path, seed: int = 5) -> Path:
    torch.manual_seed(seed)
    net = SRVGGNetCompact(num_feat=6, num_conv=2, upscale=2)
    meta = {"arch": net.options.type, "options": net.options.model_dump(mode="json", exclude={"type"})}
    save_weights(path, {"params": net.state_dict()}, meta)
    return path


def run_of(root: Path, name: str, *, source: str = "plan_cache", **sections: Any) -> dict[str, Any]:
    """A run of six steps without validation; ``distill`` is merged key by key."""
    teacher = root / "teacher.pth"
    if not teacher.exists():
        write_teacher(teacher)
    distill: dict[str, Any] = {
        "teacher": [{"weights": str(teacher), "source": source, "quality_check": "off"}],
        "recipe": "classic-response@1",
        "cache": {"dir": str(root / "cache"), "format": "fp32", **sections.pop("cache", {})},
        **sections.pop("distill", {}),
    }
    train_options = {"total_iter": 6, "optim_g": {"type": "Adam", "lr": 1e-3}, "ema_decay": 0.9}
    run = small_run(root / "runs", objective="distill", distill=distill, name=name)
    run["train"] = train_options | sections.pop("train", {})
    run["datasets"] = {"train": run["datasets"]["train"] | sections.pop("data", {})}
    run["logger"] = {"print_freq": 2, "save_checkpoint_freq": 3, "use_tb_logger": False}
    del run["val"]
    return run | sections


def weights_of(folder: Path, step: int = 6) -> dict[str, Tensor]:
    content: dict[str, Tensor] = torch.load(folder / f"models/net_g_{step}.pth", weights_only=True)["params"]
    return content


def same(one: Path, other: Path, step: int = 6) -> bool:
    left, right = weights_of(one, step), weights_of(other, step)
    return all(torch.equal(left[name], right[name]) for name in left)


def log_of(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("*.log")))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many samples every forward pass of a teacher had."""
    counted: list[int] = []
    real = Teacher._run

    def counting(self: Teacher, lq: Tensor) -> Tensor:
        counted.append(len(lq))
        return real(self, lq)

    monkeypatch.setattr(Teacher, "_run", counting)
    yield counted


def shards(root: Path) -> list[Path]:
    return sorted((root / "cache").glob("*/*.bin"))


def test_a_cached_run_equals_the_online_run_and_calls_no_teacher(tmp_path: Path, calls: list[int]) -> None:
    online = train(run_of(tmp_path, "online", source="online"), quiet=True).folder
    assert not (tmp_path / "cache").exists()
    filling = train(run_of(tmp_path, "filling"), quiet=True).folder
    assert same(online, filling)
    assert "24 computed and stored" in log_of(filling)
    calls.clear()
    cached = train(run_of(tmp_path, "cached"), quiet=True).folder
    assert calls == []
    assert same(online, cached)
    assert "24 answers read, 0 computed" in log_of(cached)
    assert "never called: every answer is stored" in log_of(cached)


def test_upcycled_tiles_are_cached_and_arms_share_what_they_have_in_common(
    tmp_path: Path, calls: list[int]
) -> None:
    terms = {"recipe": None, "terms": UPCYCLE}
    data = {"gt_size": 48}
    online = train(run_of(tmp_path, "online", source="online", distill=terms, data=data), quiet=True).folder
    filling = train(run_of(tmp_path, "filling", distill=terms, data=data), quiet=True).folder
    calls.clear()
    cached = train(run_of(tmp_path, "cached", distill=terms, data=data), quiet=True).folder
    assert calls == []
    assert same(online, filling) and same(online, cached)
    train(run_of(tmp_path, "response", data=data), quiet=True)
    assert calls == [], "the response arm needs nothing that the upcycle arm has not stored"
    assert {path.parent.name.split("-")[0] for path in shards(tmp_path)} == {"lq", "tiles", "zoom"}


def test_a_stop_and_a_resume_with_the_cache_change_nothing(tmp_path: Path, calls: list[int]) -> None:
    whole = train(run_of(tmp_path, "whole", source="online"), quiet=True).folder
    train(run_of(tmp_path, "half", train={"total_iter": 3}), quiet=True)
    resumed = train(run_of(tmp_path, "half"), auto_resume=True, quiet=True).folder
    assert same(whole, resumed)
    calls.clear()
    again = train(run_of(tmp_path, "again"), quiet=True).folder
    assert calls == [], "steps 1 to 3 and 4 to 6 stand in one file"
    assert same(whole, again)


def test_micro_batches_have_their_own_cache(tmp_path: Path, calls: list[int]) -> None:
    parts = {"total_iter": 6, "accumulate": 2}
    online = train(run_of(tmp_path, "online", source="online", train=parts), quiet=True).folder
    train(run_of(tmp_path, "filling", train=parts), quiet=True)
    calls.clear()
    assert same(online, train(run_of(tmp_path, "cached", train=parts), quiet=True).folder)
    assert calls == []
    train(run_of(tmp_path, "whole"), quiet=True)
    assert calls, "passes of four samples may differ from those of two in their last bits"
    assert len(shards(tmp_path)) == 3


def test_uint16_targets_are_within_the_promised_distance(tmp_path: Path) -> None:
    cache = {"format": "uint16", "verify": 2}
    exact = train(run_of(tmp_path, "exact"), quiet=True).folder
    first = train(run_of(tmp_path, "first", cache=cache), quiet=True).folder
    second = train(run_of(tmp_path, "second", cache=cache), quiet=True).folder
    assert same(first, second), "the run that fills the cache learns from what it stores"
    assert not same(exact, first)
    assert "largest difference 0.0e+00" in log_of(second)


CHANGES: dict[str, dict[str, Any]] = {
    "plan.seed": {"manual_seed": 4},
    "plan.lq_size": {"data": {"gt_size": 40}},
    "plan.sampling.use_rot": {"data": {"use_rot": False}},
    "plan.data": {"data": {"pictures": ["coffee"]}},
    "plan.samples": {"data": {"batch_size_per_gpu": 2}},
    "plan.degradation.type": {"degradation": {"type": "jpeg", "quality": 60}},
    "format": {"cache": {"format": "fp16"}},
    "teacher.self_ensemble": {"self_ensemble": 8},
    "teacher.sha256": {"teacher": 6},
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_key_is_another_cache_and_the_log_says_why(
    tmp_path: Path, calls: list[int], what: str
) -> None:
    short = {"total_iter": 2}
    train(run_of(tmp_path, "first", train=short), quiet=True)
    change = dict(CHANGES[what])
    if "teacher" in change:
        write_teacher(tmp_path / "teacher.pth", change.pop("teacher"))
    ensemble = change.pop("self_ensemble", None)
    other = run_of(tmp_path, "second", train=short, **change)
    if ensemble:
        other["distill"]["teacher"][0]["self_ensemble"] = ensemble
    calls.clear()
    folder = train(other, quiet=True).folder
    assert calls
    assert "does not serve: it differs in " in log_of(folder) and what in log_of(folder)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_other_pixels_under_the_same_names_are_refused(tmp_path: Path) -> None:
    import cv2

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    cv2.imwrite(str(pictures / "a.png"), noise)
    data = {"dataroot_gt": str(pictures), "pictures": None}
    train(run_of(tmp_path, "first", data=data), quiet=True)
    noise[16:24] = 255 - noise[16:24]
    cv2.imwrite(str(pictures / "a.png"), noise)
    with pytest.raises(UserError, match=r"sample \d of step 1 is not the picture that the teacher saw"):
        train(run_of(tmp_path, "second", data=data), quiet=True)


def test_a_flipped_byte_is_named_and_its_file_made_anew(tmp_path: Path, calls: list[int]) -> None:
    first = train(run_of(tmp_path, "first"), quiet=True).folder
    (path,) = shards(tmp_path)
    sound = path.read_bytes()
    torn = bytearray(sound)
    torn[len(torn) // 2] ^= 4
    path.write_bytes(torn)
    calls.clear()
    second = train(run_of(tmp_path, "second"), quiet=True).folder
    assert f"{path} is damaged" in log_of(second)
    assert same(first, second)
    assert sum(calls) >= 24
    assert path.read_bytes() == sound


def test_a_folder_of_another_cache_is_refused_with_the_reason(tmp_path: Path) -> None:
    train(run_of(tmp_path, "first"), quiet=True)
    (folder,) = (tmp_path / "cache").iterdir()
    key = json.loads((folder / "key.json").read_text())
    key["teacher"]["sha256"] = "0" * 64
    (folder / "key.json").write_text(json.dumps(key))
    with pytest.raises(UserError, match=r"made with another teacher\.sha256"):
        train(run_of(tmp_path, "second"), quiet=True)


def test_too_much_is_refused_before_anything_is_computed(tmp_path: Path, calls: list[int]) -> None:
    with pytest.raises(UserError, match=r"6 steps need .* GB .*max_gb 1e-06 allows"):
        train(run_of(tmp_path, "run", cache={"max_gb": 1e-6}), quiet=True)
    assert calls == []
    assert not (tmp_path / "cache").exists()


def test_verification_notices_answers_that_are_not_the_teachers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(run_of(tmp_path, "first"), quiet=True)
    real = Teacher.output
    monkeypatch.setattr(Teacher, "output", lambda self, lq: real(self, lq) + 0.01)
    with pytest.raises(UserError, match=r"at step 1 the stored answer is 1\.0e-02 away from the teacher's"):
        train(run_of(tmp_path, "second", cache={"verify": 1}), quiet=True)


def test_features_stay_online_and_leave_the_same_weights(tmp_path: Path, calls: list[int]) -> None:
    terms = {"recipe": "feature@1"}
    online = train(run_of(tmp_path, "online", source="online", distill=terms), quiet=True).folder
    train(run_of(tmp_path, "filling", distill=terms), quiet=True)
    calls.clear()
    cached = train(run_of(tmp_path, "cached", distill=terms), quiet=True).folder
    assert sum(calls) >= 24
    assert same(online, cached)


@pytest.mark.parametrize("change", ["a bit", "two values swapped", "the sign of zero"])
def test_inputs_are_told_apart_by_every_bit(change: str) -> None:
    inputs = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    inputs[1, 0, 0, 0] = 0.0
    other = inputs.clone()
    if change == "a bit":
        other[1, 2, 3, 4] = torch.nextafter(other[1, 2, 3, 4], torch.tensor(2.0))
    elif change == "two values swapped":
        other[1, 0, 1, 1], other[1, 2, 5, 5] = inputs[1, 2, 5, 5], inputs[1, 0, 1, 1]
    else:
        other[1, 0, 0, 0] = -0.0
    before, after = input_digests(inputs, 2), input_digests(other, 2)
    assert before[0] == after[0] and before[1] != after[1]
    assert torch.equal(input_digests(inputs.to(memory_format=torch.channels_last), 2), before)


def test_cache_verify_computes_answers_again_and_tells_the_largest_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atelier.options.read import load_run_options
    from atelier.train.verifying_caches import verify_caches

    terms = {"recipe": None, "terms": UPCYCLE}
    run = run_of(tmp_path, "run", distill=terms, data={"gt_size": 48}, cache={"format": "uint16"})
    options = load_run_options(run)
    assert verify_caches(options, quiet=True).lines == ["nothing is stored for this run yet"]
    train(run, quiet=True)
    report = verify_caches(options, 3, quiet=True)
    assert report.ok and len(report.lines) == 3
    assert all(
        "6 passes of 4 samples, 3 computed again, largest difference 0.0e+00" in line for line in report.lines
    )
    with monkeypatch.context() as patch:
        real = Teacher.output
        patch.setattr(Teacher, "output", lambda self, lq: real(self, lq) + 0.001)
        report = verify_caches(options, 3, quiet=True)
    assert not report.ok and "not this teacher's answers" in report.lines[0]
    path = shards(tmp_path)[0]
    torn = bytearray(path.read_bytes())
    torn[-1] ^= 1
    path.write_bytes(torn)
    report = verify_caches(options, 3, quiet=True)
    assert not report.ok and f"{path} is damaged" in report.lines[0]


def cache_of(root: Path, teacher_file: Path, **options: Any) -> PlanCache:
    setting = Setting(
        seed=3,
        total_iter=10,
        scale=2,
        channels=(3, 3),
        lq_size=8,
        device=torch.device("cpu"),
        samples=4,
        together=2,
        plan={},
    )
    teacher = read_teacher(TeacherOptions(weights=teacher_file, source="plan_cache"), setting, 0)
    return PlanCache(teacher, PlanCacheOptions(dir=root, format="fp32", **options), setting, ["lq"], 0)


def test_an_answer_comes_back_in_the_order_of_memory_it_had(tmp_path: Path) -> None:
    """A mean adds up in that order, so the same numbers in another one would change a loss's last bit."""
    lq = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    answer = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    file = write_teacher(tmp_path / "teacher.pth")
    cache = cache_of(tmp_path / "cache", file)
    turned = answer.to(memory_format=torch.channels_last)
    first = cache.answer("lq", lq, Moment(1, [0, 1]), lambda: answer)
    second = cache.answer("lq", lq, Moment(2, [2, 3]), lambda: turned)
    cache.close()
    again = cache_of(tmp_path / "cache", file)

    def never() -> Tensor:
        raise AssertionError("the answer is stored")

    for step, numbers, stored in ((1, [0, 1], first), (2, [2, 3], second)):
        found = again.answer("lq", lq, Moment(step, numbers), never)
        assert torch.equal(found, answer) and torch.equal(stored, answer)
        assert found.stride() == stored.stride() == (answer, turned)[step - 1].stride()


def test_preflight_reads_and_stores_nothing(tmp_path: Path) -> None:
    lq = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    cache = cache_of(tmp_path / "cache", write_teacher(tmp_path / "teacher.pth"))
    cache.answer("lq", lq, Moment(1, [0, 1], fill=False), lambda: torch.zeros(2, 3, 16, 16))
    assert cache.close() == [] and not (tmp_path / "cache").exists()


def test_an_answer_that_is_not_finite_is_not_stored(tmp_path: Path) -> None:
    lq = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    cache = cache_of(tmp_path / "cache", write_teacher(tmp_path / "teacher.pth"))
    bad = torch.zeros(2, 3, 16, 16)
    bad[1, 0, 3, 3] = torch.nan
    with pytest.raises(RunStopped, match="step 1 is not finite"):
        cache.answer("lq", lq, Moment(1, [0, 1]), lambda: bad)
    cache.close()
    assert not (tmp_path / "cache").exists()


def test_the_networks_code_is_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_teacher(tmp_path / "teacher.pth")
    before = cache_of(tmp_path / "cache", file)
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: real(self) + b"# changed" * (self.suffix == ".py"))
    after = cache_of(tmp_path / "cache", file)
    assert differences(before.keys["lq"], after.keys["lq"]) == ["teacher.code"]
    assert before.stores["lq"].folder != after.stores["lq"].folder
