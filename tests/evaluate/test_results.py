"""Means, records, rounding, tables, and the best so far."""

from __future__ import annotations

import json
import math
from io import StringIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from atelier.errors import UserError
from atelier.evaluate.best import Best, best_so_far, is_better
from atelier.evaluate.results import MetricMean, ValidationResult, as_dtype, format_change, format_value
from atelier.evaluate.tables import comparison_table, comparison_text


class _Psnr:
    protocol = "PSNR-Y (BT.601, crop 2)"
    higher_is_better = True

    def __call__(self, restored: object, gt: object, /) -> float:
        raise NotImplementedError


def _result(*values: float, iteration: int = 10, method: str | None = None) -> ValidationResult:
    images = {f"p{index}": {"psnr": value} for index, value in enumerate(values)}
    return ValidationResult.of("val", images, {"psnr": _Psnr()}, iteration=iteration, method=method)


def test_mean_leaves_infinite_values_out_and_counts_them() -> None:
    mean = _result(30.0, math.inf, 32.0).metrics["psnr"]
    assert (mean.value, mean.excluded) == (31.0, 1)


def test_mean_of_only_infinite_values_is_infinite() -> None:
    mean = _result(math.inf, math.inf).metrics["psnr"]
    assert (mean.value, mean.excluded) == (math.inf, 2)


def test_record_has_the_shape_of_the_contract() -> None:
    assert _result(31.2).to_json(ema=True) == {
        "kind": "validation",
        "iter": 10,
        "set": "val",
        "images": {"p0": {"psnr": 31.2}},
        "metrics": {"psnr": {"value": 31.2, "protocol": _Psnr.protocol, "higher_is_better": True}},
        "ema": True,
    }
    record = _result(29.0, iteration=0, method="bicubic").to_json()
    assert (record["kind"], record["method"], record["iter"]) == ("baseline", "bicubic", 0)
    assert "ema" not in record


VALUES = st.lists(st.floats(-1e100, 1e100) | st.sampled_from([math.inf, -math.inf]), min_size=1, max_size=5)


@given(
    VALUES,
    st.sampled_from([None, "bicubic", "input"]),
)
def test_record_survives_strict_json(values: list[float], method: str | None) -> None:
    result = _result(*values, method=method)
    text = json.dumps(result.to_json(), allow_nan=False)
    assert ValidationResult.from_json(json.loads(text)) == result


@pytest.mark.parametrize(
    ("given", "dtype", "expected"),
    [
        (np.float32([-0.5, 0.0, 0.5 / 255, 1.5 / 255, 1.0, 7.0]), np.uint8, [0, 0, 0, 2, 255, 255]),
        (np.float32([0.0, 0.5, 1.0]), np.uint16, [0, 32768, 65535]),
        (np.uint16([0, 257, 300, 65535]), np.uint8, [0, 1, 1, 255]),
        (np.uint8([0, 1, 255]), np.uint16, [0, 257, 65535]),
        (np.uint8([0, 255]), np.float32, [0.0, 1.0]),
    ],
)
def test_pixels_of_one_type_as_another(given: np.ndarray, dtype: type, expected: list[float]) -> None:
    result = as_dtype(given.reshape(1, -1, 1), dtype)
    assert result.dtype == dtype
    assert result.ravel().tolist() == expected


def test_rounding_equals_what_restoring_writes() -> None:
    torch = pytest.importorskip("torch")
    from atelier.images import from_tensor

    values = np.random.default_rng(0).uniform(-0.1, 1.1, (40, 40, 3)).astype(np.float32)
    values[0, :20, 0] = (np.arange(20, dtype=np.float32) + 0.5) / 255
    for dtype in (np.uint8, np.uint16):
        written = from_tensor(torch.from_numpy(values).permute(2, 0, 1), dtype)
        assert np.array_equal(as_dtype(values, dtype), written)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_pixels_that_are_not_finite_are_no_picture(bad: float) -> None:
    with pytest.raises(ValueError, match="1 of 4 values are not finite"):
        as_dtype(np.float32([0, bad, 0, 1]).reshape(2, 2, 1), np.uint8)


def test_numbers_carry_their_unit() -> None:
    assert format_value(31.204, "PSNR-RGB (crop 0)") == "31.20 dB"
    assert format_value(0.91, "SSIM-Y (BT.601, crop 4)") == "0.9100"
    assert format_value(math.inf, "PSNR") == "∞ dB"
    assert format_change(-0.128, "PSNR") == "−0.13 dB"
    assert format_change(0.02, "SSIM") == "+0.0200"


def test_tables_show_every_picture_the_mean_and_the_protocol() -> None:
    results = {"bicubic": _result(30.0, 28.0, method="bicubic"), "model [v2]": _result(31.5, 27.0)}
    stream = StringIO()
    Console(file=stream, width=100).print(comparison_table(results, "val"))
    for text in (comparison_text(results, "val"), stream.getvalue()):
        assert "PSNR-Y (BT.601, crop 2), dB" in text
        assert "model [v2]" in text
        rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
        assert rows["p0"] == ["30.00", "31.50", "(+1.50)"]
        assert rows["p1"] == ["28.00", "27.00", "(−1.00)"]
        assert rows["mean"] == ["of", "2", "29.00", "29.25", "(+0.25)"]


def test_plain_table_lines_up() -> None:
    lines = comparison_text({"bicubic": _result(9.0, 28.0), "m": _result(31.5, 7.0)}).splitlines()
    assert len({len(line) for line in lines}) == 1


def test_different_protocols_or_pictures_are_not_compared() -> None:
    ours = _result(30.0)
    other = ValidationResult("val", ours.images, {"psnr": MetricMean(30.0, "PSNR-RGB (crop 2)", True)})
    with pytest.raises(UserError, match="different protocols"):
        comparison_text({"a": ours, "b": other})
    with pytest.raises(UserError, match="other pictures"):
        comparison_text({"a": ours, "b": _result(30.0, 31.0)})


def test_best_keeps_the_earlier_of_equals_and_ignores_nan() -> None:
    best, first = best_so_far(_result(30.0, iteration=1), None)
    assert first and best.iteration == 1
    for value, iteration, is_new in (
        (30.0, 2, False),
        (31.0, 3, True),
        (math.nan, 4, False),
        (30.9, 5, False),
    ):
        best, new = best_so_far(_result(value, iteration=iteration), best)
        assert new is is_new
    assert (best.iteration, best.value) == (3, 31.0)
    assert Best.from_json(json.loads(json.dumps(best.to_json()))) == best


def test_best_of_another_protocol_starts_afresh() -> None:
    previous = Best("val", "psnr", "PSNR-RGB (crop 2)", 50.0, 1)
    best, new = best_so_far(_result(30.0, iteration=2), previous)
    assert new and best.iteration == 2


def test_lower_can_be_better() -> None:
    assert is_better(1.0, 2.0, higher_is_better=False)
    assert not is_better(math.nan, 2.0, higher_is_better=False)
    assert is_better(1.0, math.nan, higher_is_better=True)
