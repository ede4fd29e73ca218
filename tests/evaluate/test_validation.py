"""Validation: equal to direct metric calls, independent of ranks, leaves the network as it was, never hangs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from atelier.errors import RunStopped, UserError
from atelier.evaluate.validation import (
    SaveOptions,
    baseline,
    mirrored_to_windows,
    restorer,
    sample_path,
    validate,
)
from atelier.images import imresize, read_image
from atelier.metrics import METRICS, psnr
from support import free_port

Pairs = Callable[..., list[Any]]


def _metrics() -> dict[str, Any]:
    return {"psnr": METRICS.options_class("psnr")(type="psnr", test_y_channel=True).build(2)}


def _repeat(pixels: np.ndarray[Any, Any], scale: int = 2) -> np.ndarray[Any, Any]:
    return pixels.repeat(scale, 0).repeat(scale, 1)


class Repeat(nn.Module):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.frozen = nn.Dropout(0.5)

    def forward(self, lq: Tensor) -> Tensor:
        return self.frozen(nn.functional.interpolate(lq, scale_factor=2)) * self.factor


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_values_equal_direct_metric_calls(pairs: Pairs, dtype: Any) -> None:
    data = pairs(3, dtype=dtype)
    result = validate(
        Repeat(), data, name="val", metrics=_metrics(), restore=restorer(2), iteration=7, quiet=True
    )
    for pair in data:
        assert result.images[pair.name]["psnr"] == psnr(_repeat(pair.lq), pair.gt, crop_border=2, y=True)
    values = [result.images[pair.name]["psnr"] for pair in data]
    assert result.metrics["psnr"].value == pytest.approx(sum(values) / 3, abs=1e-12)
    assert result.metrics["psnr"].protocol == "PSNR-Y (BT.601, crop 2)"
    assert (result.iteration, result.method, list(result.images)) == (7, None, [p.name for p in data])


def test_output_is_clamped_before_it_is_measured(pairs: Pairs) -> None:
    data = pairs(1)
    result = validate(Repeat(3.0), data, name="val", metrics=_metrics(), restore=restorer(2), quiet=True)
    clamped = np.minimum(_repeat(data[0].lq).astype(int) * 3, 255).astype(np.uint8)
    assert result.images["picture0"]["psnr"] == psnr(clamped, data[0].gt, crop_border=2, y=True)


def test_tiles_give_the_same_values(pairs: Pairs) -> None:
    data = pairs(2)
    whole, tiled = (
        validate(
            Repeat(),
            data,
            name="val",
            metrics=_metrics(),
            restore=restorer(2, tile=tile, receptive_radius=0),
            quiet=True,
        )
        for tile in (None, 16)
    )
    assert tiled == whole


def test_training_flags_and_gradients_stay_as_found(pairs: Pairs) -> None:
    net = Repeat().train()
    net.frozen.eval()
    outputs: list[bool] = []

    def restore(inner: nn.Module, lq: Any) -> Any:
        output = inner(torch.from_numpy(lq).permute(2, 0, 1)[None].float() / 255)
        outputs.append(output.requires_grad or inner.training)
        return output[0].permute(1, 2, 0).numpy()

    validate(net, pairs(2), name="val", metrics=_metrics(), restore=restore, quiet=True)
    assert outputs == [False, False]
    assert net.training and not net.frozen.training


def test_flags_come_back_after_an_error(pairs: Pairs) -> None:
    def restore(inner: nn.Module, lq: Any) -> Any:
        raise UserError("no")

    net = Repeat().train()
    with pytest.raises(UserError, match="no"):
        validate(net, pairs(1), name="val", metrics=_metrics(), restore=restore, quiet=True)
    assert net.training and net.frozen.training


class _Caching(Repeat):
    """Builds a table in its forward and keeps it, as attention masks are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Tensor | None = None

    def forward(self, lq: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.ones(1)
        return super().forward(lq) * self.table


def test_a_network_that_caches_can_be_trained_after_validation(pairs: Pairs) -> None:
    net = _Caching()
    validate(net, pairs(1), name="val", metrics=_metrics(), restore=restorer(2), quiet=True)
    net(torch.rand(1, 3, 4, 4)).sum().backward()
    assert net.factor.grad is not None


def test_a_ddp_wrapper_is_taken_off(pairs: Pairs) -> None:
    """Its forward exchanges buffers; on an uneven tail it would wait for a rank that is done."""
    wrapper = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = Repeat()
    seen: list[nn.Module] = []

    def restore(net: nn.Module, lq: Any) -> Any:
        seen.append(net)
        return _repeat(lq)

    validate(wrapper, pairs(1), name="val", metrics=_metrics(), restore=restore, quiet=True)
    assert seen == [wrapper.module]


def test_baseline_is_bicubic_and_the_input_at_scale_one(pairs: Pairs) -> None:
    data = pairs(2)
    result = baseline(data, 2, _metrics(), quiet=True)
    assert (result.method, result.iteration, result.name) == ("bicubic", 0, "val")
    for pair in data:
        assert result.images[pair.name]["psnr"] == psnr(
            imresize(pair.lq, scale=2), pair.gt, crop_border=2, y=True
        )
    noisy = pairs(1, scale=1)
    result = baseline(noisy, 1, _metrics(), name="noise", quiet=True)
    assert result.method == "input"
    assert result.images["picture0"]["psnr"] == psnr(noisy[0].lq, noisy[0].gt, crop_border=2, y=True)


def test_float_input_gives_a_baseline_in_the_type_of_gt(pairs: Pairs) -> None:
    pair = pairs(1)[0]
    as_float = type(pair)(pair.name, pair.lq.astype(np.float32) / 255, pair.gt)
    value = baseline([as_float], 2, _metrics(), quiet=True).images["picture0"]["psnr"]
    enlarged = np.rint(np.clip(imresize(as_float.lq, scale=2), 0, 1) * np.float32(255)).astype(np.uint8)
    assert value == psnr(enlarged, pair.gt, crop_border=2, y=True)


def test_sample_pictures(pairs: Pairs, tmp_path: Path) -> None:
    data = pairs(3)
    save = SaveOptions(tmp_path, max_images=2)
    for iteration, factor in ((10, 1.0), (20, 0.5)):
        validate(
            Repeat(factor),
            data,
            name="val",
            metrics=_metrics(),
            restore=restorer(2),
            iteration=iteration,
            save=save,
            quiet=True,
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["picture0", "picture1"]
    folder = tmp_path / "picture0"
    kinds = ("10", "20", "bicubic", "gt", "lq")
    assert sorted(path.name for path in folder.iterdir()) == [f"picture0_{kind}.png" for kind in kinds]
    assert np.array_equal(read_image(folder / "picture0_10.png").pixels, _repeat(data[0].lq))
    assert np.array_equal(read_image(folder / "picture0_gt.png").pixels, data[0].gt)
    assert np.array_equal(read_image(folder / "picture0_lq.png").pixels, data[0].lq)
    assert np.array_equal(read_image(folder / "picture0_bicubic.png").pixels, imresize(data[0].lq, scale=2))


def test_gt_lq_and_bicubic_are_written_once(pairs: Pairs, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"name": "val", "metrics": _metrics(), "restore": restorer(2), "quiet": True}
    validate(Repeat(), pairs(1), save=SaveOptions(tmp_path), iteration=1, **arguments)
    before = {path: path.stat().st_ino for path in (tmp_path / "picture0").iterdir()}
    validate(Repeat(), pairs(1), save=SaveOptions(tmp_path), iteration=2, **arguments)
    assert {path: path.stat().st_ino for path in before} == before


@pytest.mark.parametrize("name", ["../away", "/away", "", "a/../../b"])
def test_picture_names_never_lead_out_of_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be used"):
        sample_path(tmp_path, name, 1)


def test_nested_names_keep_their_folder(tmp_path: Path) -> None:
    assert sample_path(tmp_path, "set/baby", 100) == tmp_path / "set" / "baby" / "baby_100.png"


def test_two_pictures_of_one_name(pairs: Pairs) -> None:
    pair = pairs(1)[0]
    with pytest.raises(UserError, match="two pictures called 'picture0'"):
        baseline([pair, pair], 2, _metrics(), quiet=True)


def test_an_empty_set() -> None:
    with pytest.raises(UserError, match="set 'val' holds no pictures"):
        baseline([], 2, _metrics(), quiet=True)


def test_wrong_scale_names_the_picture_and_all_sizes(pairs: Pairs) -> None:
    with pytest.raises(UserError, match=r"'picture0'.*9×12×3, gt is 18×24×3"):
        baseline(pairs(1), 1, _metrics(), quiet=True)


def test_an_output_that_is_not_finite_stops_the_run(pairs: Pairs) -> None:
    with pytest.raises(RunStopped, match=r"'picture0'.*not finite"):
        validate(
            Repeat(float("nan")), pairs(1), name="val", metrics=_metrics(), restore=restorer(2), quiet=True
        )


# ranks


def _rank(rank: int, port: int, data: dict[int, list[Any]], folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    outcome: dict[str, Any] = {}
    common: dict[str, Any] = {"rank": rank, "world": 2, "quiet": True}
    for count, pairs in data.items():
        measured = validate(
            Repeat(), pairs, name="val", metrics=_metrics(), restore=restorer(2), iteration=3, **common
        )
        outcome[f"validate{count}"] = measured.to_json()
        outcome[f"baseline{count}"] = baseline(pairs, 2, _metrics(), **common).to_json()

    def failing(net: nn.Module, lq: Any) -> Any:
        if rank == 1:
            raise UserError("the picture is broken")
        return _repeat(lq)

    try:
        validate(Repeat(), data[3], name="val", metrics=_metrics(), restore=failing, **common)
    except UserError as error:
        outcome["error"] = [type(error).__name__, str(error)]
    Path(folder, f"{rank}.json").write_text(json.dumps(outcome))
    dist.destroy_process_group()


def test_two_ranks_equal_one_and_share_errors(pairs: Pairs, tmp_path: Path) -> None:
    data = {count: pairs(count) for count in (1, 3, 5)}
    mp.spawn(_rank, args=(free_port(), data, str(tmp_path)), nprocs=2)
    outcomes = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for count, each in data.items():
        alone = validate(
            Repeat(), each, name="val", metrics=_metrics(), restore=restorer(2), iteration=3, quiet=True
        )
        reference = baseline(each, 2, _metrics(), quiet=True)
        for outcome in outcomes:
            assert outcome[f"validate{count}"] == alone.to_json()
            assert list(outcome[f"validate{count}"]["images"]) == list(alone.images)
            assert outcome[f"baseline{count}"] == reference.to_json()
    assert outcomes[0]["error"] == [
        "RunStopped",
        "Validation val failed on rank 1: UserError: the picture is broken",
    ]
    assert outcomes[1]["error"] == ["UserError", "the picture is broken"]


@pytest.mark.parametrize(("side", "expected"), [(16, 24), (17, 24), (23, 24), (3, 6), (4, 8)])
def test_official_padding_as_the_test_script_does_it(side, expected):
    pixels = torch.rand(1, 2, side, 20)
    padded = mirrored_to_windows(pixels, 8)
    assert padded.shape == (1, 2, expected, 24)
    assert torch.equal(padded[:, :, :side, :20], pixels)
    assert torch.equal(padded[:, :, side:, :20], pixels.flip(2)[:, :, : expected - side])
    assert torch.equal(padded[:, :, :side, 20:], pixels.flip(3)[..., :4])


def test_official_padding_reaches_the_network_and_is_cut_again():
    seen = []

    class Double(torch.nn.Module):
        def forward(self, x):
            seen.append(tuple(x.shape[2:]))
            return torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest")

    lq = np.random.default_rng(0).integers(0, 256, (16, 21, 3), dtype=np.uint8)
    results = [
        restorer(2, size_multiple=8, padding=padding)(Double().eval(), lq)
        for padding in ("network", "official")
    ]
    assert seen[-1] == (24, 24) and seen[0] != seen[-1]
    for result in results:
        assert result.shape == (32, 42, 3)
        assert np.array_equal(result, np.repeat(np.repeat(lq, 2, 0), 2, 1).astype(np.float32) / 255)
