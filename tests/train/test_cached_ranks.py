"""Several ranks on one cache of teacher answers: each reads and writes its own samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from atelier.archs import SRVGGNetCompact
from atelier.archs.weights import save_weights
from atelier.options.read import load_run_options
from atelier.train.verifying_caches import verify_caches
from support import small_run, two_ranks


@pytest.mark.slow
def test_two_ranks_fill_a_cache_and_read_it(tmp_path: Path) -> None:
    torch.manual_seed(5)
    net = SRVGGNetCompact(num_feat=6, num_conv=2, upscale=2)
    meta = {"arch": net.options.type, "options": net.options.model_dump(mode="json", exclude={"type"})}
    teacher = tmp_path / "teacher.pth"
    save_weights(teacher, {"params": net.state_dict()}, meta)
    distill = {
        "teacher": [{"weights": str(teacher), "source": "plan_cache", "quality_check": "off"}],
        "recipe": "upcycle@1",
        "cache": {"dir": str(tmp_path / "cache"), "format": "fp32"},
    }
    folders = {}
    for name, source in (("online", "online"), ("filling", "plan_cache"), ("cached", "plan_cache")):
        options = small_run(tmp_path / "runs", objective="distill", name=name)
        options["distill"] = distill | {"teacher": [distill["teacher"][0] | {"source": source}]}  # type: ignore[index,dict-item]
        options["datasets"] = {"train": options["datasets"]["train"] | {"batch_size_per_gpu": 2}}
        del options["val"]
        path = tmp_path / "run.yml"
        path.write_text(json.dumps(options))
        before = {each: each.stat().st_mtime_ns for each in (tmp_path / "cache").glob("*/*.bin")}
        codes, output = two_ranks(path)
        assert codes == [0, 0], output
        folders[name] = tmp_path / "runs" / name
    after = {each: each.stat().st_mtime_ns for each in (tmp_path / "cache").glob("*/*.bin")}
    assert len(after) == 4, "tiles and lq, a file for each rank"
    assert before == after, "neither rank had anything to store"
    online, *others = (
        torch.load(folder / "models/net_g_8.pth", weights_only=True)["params"] for folder in folders.values()
    )
    for other in others:
        assert all(torch.equal(online[name], other[name]) for name in online)
    report = verify_caches(load_run_options(path), 4, world=2, quiet=True)
    assert report.ok and all("16 passes of 2 samples" in line for line in report.lines)
