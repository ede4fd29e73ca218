"""The source document's option file trains on bundled photographs that the data tools laid out as it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support import REPOSITORY

FILE = REPOSITORY / "options" / "finetune_small_realesr_animevideox2v3.yml"
#: Small for a test; the perceptual term needs a download. All else is as the file has it.
OVERRIDES = [
    "train.perceptual_opt=~",
    "network_d.num_feat=8",
    "datasets.train.gt_size=64",
    "datasets.train.num_worker_per_gpu=0",
]


def lay_out(root: Path) -> None:
    """``datasets`` and ``weights`` below ``root``, by the tools of ``atelier data`` and a saved network."""
    import torch

    from atelier.archs.compact_options import SRVGGNetCompactOptions
    from atelier.archs.weights import save_weights
    from atelier.data.bundled import bundled_path
    from atelier.data.meta_info_writer import write_meta_info
    from atelier.data.set5 import prepare_benchmark
    from atelier.images.files import read_image, write_image

    folders = {"datasets/DF2K": ("coffee", "rocket"), "HR": ("chelsea",)}
    for folder, names in folders.items():
        (root / folder).mkdir(parents=True)
        for name in names:
            write_image(root / folder / f"{name}.png", read_image(bundled_path(name)).pixels[:120, 100:250])
    (root / "datasets/DF2K/meta_info").mkdir()
    write_meta_info(
        [root / "datasets/DF2K"],
        root / "datasets/DF2K/meta_info/meta_info_DF2K.txt",
        roots=[root / "datasets/DF2K"],
        quiet=True,
    )
    prepare_benchmark(root / "HR", root / "datasets/Set5", scales=(2,), workers=1, quiet=True)
    torch.manual_seed(0)
    options = SRVGGNetCompactOptions(num_feat=32, num_conv=32, upscale=2)
    state = options.build().state_dict()
    (root / "weights").mkdir()
    save_weights(root / "weights/transferred_32_32_x2.pth", {"params": state, "params_ema": state}, {})


def test_the_document_trains_as_laid_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from atelier.cli.main import main

    lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["train", "-opt", str(FILE), "--debug", *OVERRIDES])
    assert ended.value.code in (0, None)
    said = capsys.readouterr().out
    assert "debug: 8 steps" in said
    assert "resumes" in said
    run = tmp_path / "experiments" / "debug_finetune_small_realesr_animevideox2v3_200k"
    generator = torch.load(run / "models" / "net_g_8.pth", weights_only=True)
    assert {"params", "params_ema"} <= set(generator)
    assert (run / "models" / "net_d_8.pth").exists()
    state = torch.load(run / "training_states" / "8.state", weights_only=True)
    assert {"epoch", "iter", "optimizers", "schedulers"} <= set(state)
    assert len(state["optimizers"]) == 2
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    validation = [record for record in records if record["kind"] == "validation"]
    assert [record["iter"] for record in validation] == [4, 8]
    assert list(validation[0]["images"]) == ["chelsea"]
    losses = next(record for record in records if record["kind"] == "train")["losses"]
    assert {"l_g_pix", "l_g_gan", "l_d_real", "l_d_fake"} <= set(losses)
    log = (run / "train.log").read_text()
    for note in ("the pool is not needed", "milestone 200000", "dist_params.port: does nothing"):
        assert note in log
