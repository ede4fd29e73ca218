"""The report: holds the numbers, needs nothing outside itself, escapes names, survives what is missing."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atelier.errors import UserError
from atelier.evaluate import embedding, sections
from atelier.evaluate.report import write_report
from atelier.evaluate.run_record import find_samples, read_run
from atelier.evaluate.validation import sample_path
from atelier.images import write_image

PROTOCOLS = {"psnr": "PSNR-Y (BT.601, crop 2)", "ssim": "SSIM-Y (BT.601, crop 2)"}
BASE = {"baby": (30.0, 0.9), "bird": (28.0, 0.8), "head": (26.0, 0.7)}
LAST = {"baby": (31.5, 0.91), "bird": (27.75, 0.79), "head": (28.25, 0.75)}


def measured(
    images: dict[str, tuple[float, float]], iteration: int, method: str | None = None, name: str = "val"
) -> dict[str, Any]:
    means = np.mean(list(images.values()), axis=0)
    return {
        "kind": "validation" if method is None else "baseline",
        "iter": iteration,
        "set": name,
        "images": {image: dict(zip(PROTOCOLS, values, strict=True)) for image, values in images.items()},
        "metrics": {
            key: {"value": float(mean), "protocol": PROTOCOLS[key], "higher_is_better": True}
            for key, mean in zip(PROTOCOLS, means, strict=True)
        },
    } | ({"ema": True} if method is None else {"method": method})


def train_line(iteration: int, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "train",
        "iter": iteration,
        "lr": 2e-4,
        "losses": {"l_g_pix": 1 / iteration},
        "images_per_s": 51.0,
        "data_share": 0.02,
        "memory_mb": 812.0,
        "time": 1.79e9 + iteration,
    } | changes


def write_lines(folder: Path, lines: list[dict[str, Any]], tail: str = "") -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + tail, encoding="utf-8")


def save_pictures(folder: Path, image: str, size: tuple[int, int] = (24, 32), iteration: int = 200) -> None:
    height, width = size
    generator = np.random.default_rng(0)
    for kind in ("gt", "bicubic", iteration):
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        write_image(sample_path(folder / "visualization", image, kind), pixels)
    lq = generator.integers(0, 256, (height // 2, width // 2, 3), dtype=np.uint8)
    write_image(sample_path(folder / "visualization", image, "lq"), lq)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A complete small run."""
    folder = tmp_path / "small_x2"
    folder.mkdir()
    early = {image: (psnr - 0.5, ssim - 0.01) for image, (psnr, ssim) in LAST.items()}
    write_lines(
        folder,
        [
            measured(BASE, 0, "bicubic"),
            *(train_line(i) for i in range(50, 201, 50)),
            measured(early, 100),
            measured(LAST, 200),
        ],
    )
    (folder / "options.yml").write_text(
        "name: small_x2\nscale: 2\nnetwork_g: {type: SRVGGNetCompact}\ntrain: {total_iter: 400}\n"
    )
    (folder / "environment.json").write_text('{"python": "3.11.9", "packages": {"torch": "2.15.0"}}')
    for image in LAST:
        save_pictures(folder, image)
    return folder


class Page(HTMLParser):
    """Every start tag with its attributes, and all text outside script and style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._inside[-1:]):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [
            attrs
            for name, attrs in self.tags
            if name == tag and all(attrs.get(key.rstrip("_")) == value for key, value in wanted.items())
        ]


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_numbers_stand_with_unit_protocol_and_baseline(run: Path) -> None:
    text = page_of(run).text
    mean, base = 29.1666667, 28.0
    assert f"PSNR-Y (BT.601, crop 2): {mean:.2f} dB against {base:.2f} dB for bicubic (+1.17 dB)" in text
    assert "better on 2 of 3 pictures" in text
    assert "1.17 dB better than bicubic on average, but not on every picture" in text
    assert "Set “val”, 3 pictures, iteration 200, averaged weights" in text
    assert "200 of 400" in text and "51.00 images/s" in text and "812 MB" in text
    assert "torch" in text and "2.15.0" in text and "type: SRVGGNetCompact" in text
    for value in ("31.50 dB", "27.75 dB", "−0.25 dB", "0.7500", "+0.0500"):
        assert value in text


def test_worst_and_best_cases_are_by_gain(run: Path) -> None:
    section = sections.set_section(read_run(run), "val", 0)
    assert [(case.image, case.text) for case in section.worst] == [("bird", "−0.25 dB (28.00 dB → 27.75 dB)")]
    assert [(case.image, case.text) for case in section.best] == [("head", "+2.25 dB (26.00 dB → 28.25 dB)")]
    assert {card.image: card.tag for card in section.cards} == {
        "baby": "",
        "bird": "among the worst",
        "head": "among the best",
    }


def test_a_worse_network_is_called_worse(run: Path) -> None:
    write_lines(run, [measured(LAST, 0, "bicubic"), measured(BASE, 200)])
    page = page_of(run)
    assert "1.17 dB worse than bicubic" in page.text
    assert page.all("section", class_="verdict bad")


def test_a_gain_in_one_metric_and_a_loss_in_another(run: Path) -> None:
    mixed = {image: (psnr + 1, ssim - 0.1) for image, (psnr, ssim) in BASE.items()}
    write_lines(run, [measured(BASE, 0, "bicubic"), measured(mixed, 200)])
    page = page_of(run)
    assert "1.00 dB better than bicubic; worse in SSIM-Y (BT.601, crop 2)" in page.text
    assert page.all("section", class_="verdict open")


def test_a_loss_that_no_decimal_shows_is_none(run: Path) -> None:
    near = {image: (psnr + 1, ssim - 1e-6) for image, (psnr, ssim) in BASE.items()}
    write_lines(run, [measured(BASE, 0, "bicubic"), measured(near, 200)])
    page = page_of(run)
    assert "1.00 dB better than bicubic" in page.text and "worse in" not in page.text
    assert page.all("section", class_="verdict good") and not page.all("td", class_="number bad")


def test_colours_are_to_be_like_the_truths(run: Path) -> None:
    """Less colourfulness and more change of it (CDC) are no loss, and not called one."""
    lines = [measured(BASE, 0, "average"), measured({k: (a + 1, b - 0.1) for k, (a, b) in BASE.items()}, 200)]
    for line in lines:
        for values in (line["metrics"], *line["images"].values()):
            values["colourfulness"] = values.pop("ssim")
        line["metrics"]["colourfulness"]["protocol"] = "colourfulness"
    write_lines(run, lines)
    page = page_of(run)
    assert "1.00 dB better than average" in page.text and "worse in" not in page.text
    assert "colourfulness to be like the truth’s" in page.text
    assert "colourfulness: 0.7000 against 0.8000 for average (−0.1000)." in page.text
    assert not page.all("td", class_="number bad")


@pytest.mark.parametrize(
    ("flow", "said"),
    [
        (1.5, "1.00 dB better than average; flow (29.50 dB) is better still"),
        (0.5, "1.00 dB better than average"),
    ],
)
def test_a_way_that_beats_the_judged_one_is_in_the_headline(run: Path, flow: float, said: str) -> None:
    base = measured(BASE, 0, "average")
    last = measured({k: (a + 1, b) for k, (a, b) in BASE.items()}, 200)
    shift = {"average": 0.0, "flow": flow, "fused": 1.0, "ground truth": 50.0}
    table = {
        title: {"psnr": {**base["metrics"]["psnr"], "value": base["metrics"]["psnr"]["value"] + more}}
        for title, more in shift.items()
    }
    write_lines(run, [base, last, {"kind": "rows", "iter": 200, "set": base["set"], "rows": table}])
    page = page_of(run)
    assert said in page.text and ("is better still" in page.text) == (flow > 1)
    assert page.all("section", class_="verdict open" if flow > 1 else "verdict good")


def test_another_protocol_is_no_baseline(run: Path) -> None:
    base = measured(BASE, 0, "bicubic")
    base["metrics"]["psnr"]["protocol"] = "PSNR-RGB (crop 2)"
    write_lines(run, [base, measured(LAST, 200)])
    assert "29.17 dB, with nothing to compare it to" in page_of(run).text


def test_a_metric_where_lower_is_better(run: Path) -> None:
    lines = [measured(BASE, 0, "bicubic"), measured(LAST, 200)]
    for line in lines:
        line["metrics"] = {
            "mae": {"value": line["metrics"]["psnr"]["value"], "protocol": "MAE", "higher_is_better": False}
        }
        line["images"] = {image: {"mae": values["psnr"]} for image, values in line["images"].items()}
    write_lines(run, lines)
    assert "1.1667 worse than bicubic" in page_of(run).text
    assert [case.image for case in sections.set_section(read_run(run), "val", 0).best] == ["bird"]


def test_the_file_needs_nothing_outside_itself(run: Path) -> None:
    page = page_of(run)
    assert not page.all("link")
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#")), value
    html = (run / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|fetch\(|https?://", html)
    assert "default-src 'none'" in html


def test_embedded_pictures_are_the_saved_pixels(run: Path) -> None:
    page = page_of(run)
    sources = [attributes["src"] or "" for attributes in page.all("img")]
    assert len(sources) == 12
    decoded = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(each.partition(",")[2])))) for each in sources
    ]
    for kind in ("gt", "bicubic", "200", "lq"):
        saved = np.asarray(Image.open(run / "visualization" / "baby" / f"baby_{kind}.png"))
        assert any(each.shape == saved.shape and np.array_equal(each, saved) for each in decoded)


def test_sliders_are_accessible(run: Path) -> None:
    page = page_of(run)
    sliders = page.all("input", type="range")
    assert len(sliders) == 3
    assert all("baby" in str(s["aria-label"]) for s in sliders[:1]) and sliders[0]["value"] == "50"
    stage = page.all("div", class_="stage zoomed")[0]
    assert (stage["data-left"], stage["data-right"]) == ("bicubic", "restored")
    options = [attributes["value"] for attributes in page.all("option")][:4]
    assert options == ["lq", "bicubic", "restored", "gt"]
    assert all(image["alt"] for image in page.all("img"))


def test_the_latest_picture_is_shown_with_the_numbers_of_its_iteration(run: Path) -> None:
    (run / "visualization" / "baby" / "baby_200.png").rename(run / "visualization" / "baby" / "baby_100.png")
    card = next(card for card in sections.set_section(read_run(run), "val", 0).cards if card.image == "baby")
    assert card.picture.iteration == 100
    assert card.numbers[0].startswith("PSNR-Y (BT.601, crop 2) 31.00 dB · bicubic 30.00 dB (+1.00 dB)")
    (run / "visualization" / "baby" / "baby_100.png").rename(run / "visualization" / "baby" / "baby_77.png")
    card = next(card for card in sections.set_section(read_run(run), "val", 0).cards if card.image == "baby")
    assert card.numbers == ["No numbers are recorded for this iteration."]


EVIL = "<img src=x onerror=alert(1)>\"'&"


def test_malicious_names_stay_text(run: Path) -> None:
    write_lines(
        run,
        [
            measured({EVIL: (30.0, 0.9)}, 0, "bicubic", EVIL),
            train_line(50, losses={EVIL: 1.0, "</script><script>alert(1)</script>": 2.0}),
            measured({EVIL: (31.0, 0.9)}, 50, name=EVIL),
        ],
    )
    (run / "options.yml").write_text(f"name: {json.dumps(EVIL)}\nnote: '</pre><script>alert(1)</script>'\n")
    (run / "environment.json").write_text(json.dumps({EVIL: [EVIL]}))
    save_pictures(run, EVIL, iteration=50)
    page = page_of(run)
    assert EVIL in page.text
    assert [each for each in page.all("img") if not (each["src"] or "").startswith("data:")] == []
    assert len(page.all("script")) == 2
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


@pytest.mark.parametrize(
    "tail", ['{"kind": "train", "it', '{"kind": "validation", "iter": 300}', "[1]", "\x00\xff"]
)
def test_a_torn_line_is_left_out_and_named(run: Path, tail: str) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(tail)
    record = read_run(run)
    assert record.missing == ["metrics.jsonl: 1 unreadable line left out (torn while being written)."]
    assert len(record.train) == 4 and record.last("val").iteration == 200
    assert record.missing[0] in page_of(run).text


def test_lines_of_a_resumed_run_replace_the_ones_it_did_again(run: Path) -> None:
    write_lines(run, [train_line(50), train_line(100, lr=1.0), train_line(100, lr=2.0), train_line(75)])
    assert [(line["iter"], line["lr"]) for line in read_run(run).train] == [
        (50, 2e-4),
        (75, 2e-4),
        (100, 2.0),
    ]


def test_a_run_without_validation(run: Path) -> None:
    write_lines(run, [train_line(50), train_line(100)])
    page = page_of(run)
    assert "Not measured" in page.text
    assert "No validation is recorded, so nothing can be said about quality." in page.text
    assert "Loss l_g_pix" in page.text and not page.all("img")


def test_what_a_distilled_run_tells_beside_its_losses(run: Path) -> None:
    details = {"share_feature": 0.25, "raw_feature": 0.4, "tap_std_student_1": 0.7, "tap_error_1": 0.9}
    write_lines(run, [train_line(50, details=details), train_line(100, details=details)])
    text = page_of(run).text
    for title in ("Share of feature", "25.0 %", "Student's spread, pair 1", "Feature error, pair 1"):
        assert title in text
    assert "raw_feature" not in text


def test_a_run_without_training_lines_baseline_and_pictures(run: Path) -> None:
    write_lines(run, [measured(LAST, 200)])
    shutil.rmtree(run / "visualization")
    text = page_of(run).text
    assert "No training lines are recorded" in text
    assert "No baseline is recorded for set 'val'" in text
    assert "No sample pictures are saved for this set." in text
    assert "29.17 dB, with nothing to compare it to" in text


def test_a_run_with_hardly_anything(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text("")
    text = page_of(tmp_path).text
    for missing in ("options.yml", "environment.json", "metrics.jsonl"):
        assert f"{missing} is missing or cannot be read." in text


def test_options_that_are_no_yaml_are_shown_all_the_same(run: Path) -> None:
    (run / "options.yml").write_text("name: [\n")
    text = page_of(run).text
    assert "options.yml is no valid YAML" in text and "name: [" in text


def test_infinite_values(run: Path) -> None:
    line = measured(LAST, 200)
    line["images"]["baby"]["psnr"] = "inf"
    line["metrics"]["psnr"] |= {"value": 28.0, "excluded": 1}
    write_lines(run, [measured(BASE, 0, "bicubic"), train_line(50, losses={"l_g_pix": "nan"}), line])
    text = page_of(run).text
    assert "∞ dB" in text
    assert "1 picture without a finite value left out of the mean" in text


def test_several_sets_with_folders_of_their_own(run: Path) -> None:
    lines = [
        entry
        for name in ("val", "val_noisy")
        for entry in (measured(BASE, 0, "bicubic", name), measured(LAST, 200, name=name))
    ]
    write_lines(run, lines)
    save_pictures(run / "visualization" / "unused", "x")
    for image in LAST:
        save_pictures(run, f"val_noisy/{image}", (30, 30))
    record = read_run(run)
    sizes = {
        name: {card.picture.width for card in sections.set_section(record, name, 0).cards}
        for name in record.validations
    }
    assert sizes == {"val": {32}, "val_noisy": {30}}
    assert "Set “val_noisy”" in page_of(run).text


def test_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        write_report(tmp_path / "nowhere")


def test_a_report_that_cannot_be_finished_leaves_the_old_one(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write_report(run).read_bytes()

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match=r"report\.html: the disk is full"):
        write_report(run)
    assert (run / "report.html").read_bytes() == old
    assert not list(run.glob(".report*"))


def test_output_goes_where_it_is_asked_for(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "r.html"
    assert write_report(run, target) == target
    assert target.is_file() and not (run / "report.html").exists()


# pictures


def test_large_pictures_are_cut_to_the_middle_and_it_is_said(tmp_path: Path) -> None:
    save_pictures(tmp_path, "big", (700, 900))
    samples = find_samples(tmp_path / "visualization", "big")
    assert samples is not None
    picture = embedding.embed(samples, 10**8)
    assert picture is not None
    assert (picture.width, picture.height) == (512, 512)
    assert picture.notes == ["the middle 512×512 of 900×700 pixels"]
    by_kind = {
        layer.kind: np.asarray(Image.open(io.BytesIO(base64.b64decode(layer.uri.partition(",")[2]))))
        for layer in picture.layers
    }
    whole = {kind: np.asarray(Image.open(samples.others[kind])) for kind in ("gt", "lq")}
    assert np.array_equal(by_kind["gt"], whole["gt"][94:606, 194:706])
    assert np.array_equal(by_kind["lq"], whole["lq"][47:303, 97:353])


def test_pictures_keep_to_their_share_of_the_file(tmp_path: Path) -> None:
    save_pictures(tmp_path, "noise", (600, 600))
    samples = find_samples(tmp_path / "visualization", "noise")
    assert samples is not None
    picture = embedding.embed(samples, 400_000)
    assert picture is not None
    assert embedding.MIN_SIDE <= picture.width < 512
    assert sum(len(layer.uri) for layer in picture.layers) <= 400_000


@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, np.uint8), (2, np.uint8), (4, np.uint8), (1, np.uint16), (3, np.uint16)]
)
def test_every_kind_of_picture_can_be_embedded(tmp_path: Path, channels: int, dtype: Any) -> None:
    peak = np.iinfo(dtype).max
    pixels = np.random.default_rng(1).integers(0, peak + 1, (10, 12, channels)).astype(dtype)
    write_image(sample_path(tmp_path / "visualization", "p", 5), pixels)
    samples = find_samples(tmp_path / "visualization", "p")
    assert samples is not None
    picture = embedding.embed(samples, 10**6)
    assert picture is not None and picture.kinds == ["restored"]
    image = Image.open(io.BytesIO(base64.b64decode(picture.layers[0].uri.partition(",")[2])))
    shown = np.asarray(image.convert({1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels])).reshape(
        10, 12, channels
    )
    assert np.array_equal(shown, np.rint(pixels / (peak / 255)).astype(np.uint8))
    assert picture.notes == (["shown in 8 bit"] if dtype == np.uint16 else [])


def test_broken_and_misfitting_pictures_are_named(tmp_path: Path) -> None:
    save_pictures(tmp_path, "p")
    home = tmp_path / "visualization" / "p"
    (home / "p_gt.png").write_bytes(b"no picture")
    write_image(home / "p_bicubic.png", np.zeros((5, 5, 3), np.uint8))
    samples = find_samples(tmp_path / "visualization", "p")
    assert samples is not None
    picture = embedding.embed(samples, 10**6)
    assert picture is not None and picture.kinds == ["lq", "restored"]
    assert picture.notes == [
        "bicubic has another size than the restored picture and is left out",
        "p_gt.png cannot be read",
    ]
    (home / "p_200.png").write_bytes(b"no picture")
    assert embedding.embed(samples, 10**6) is None


def test_only_some_of_many_pictures_are_embedded_the_cases_among_them(run: Path) -> None:
    many = {f"p{index:02d}": (30.0 + (index * 7) % 30, 0.9) for index in range(30)}
    base = dict.fromkeys(many, (30.0, 0.9))
    write_lines(run, [measured(base, 0, "bicubic"), measured(many, 200)])
    for image in many:
        save_pictures(run, image, (8, 8))
    section = sections.set_section(read_run(run), "val", 0)
    assert len(section.cards) == sections.MAX_PICTURES
    assert "12 of 30 pictures are shown" in section.pictures_note
    assert all(case.anchor for case in [*section.worst, *section.best])


# in a browser

DRIVER = """
<script>
const stage = document.querySelector(".stage"), box = stage.getBoundingClientRect();
const log = {};
const kinds = () => ["left", "right"].map((side) => stage.querySelector(`.on-${side}`)?.dataset.kind);
const at = () => stage.style.getPropertyValue("--at");
const point = (type, share) => { try { stage.dispatchEvent(new PointerEvent(type, {
  pointerId: 1, button: 0, bubbles: true, clientX: box.left + share * box.width, clientY: box.top + 1})); } catch {} };
log.start = [at(), ...kinds()];
point("pointermove", 0.9); log.hover = at();
point("pointerdown", 0.25); log.down = at();
point("pointermove", 0.75); log.drag = at();
point("pointerup", 0.75); point("pointermove", 0.1); log.released = at();
const slider = stage.querySelector(".slider");
log.focused = document.activeElement === slider;
slider.value = 30; slider.dispatchEvent(new Event("input"));
log.keyboard = [at(), slider.getAttribute("aria-valuetext")];
const select = stage.parentElement.querySelector("select");
select.value = "gt"; select.dispatchEvent(new Event("change")); log.chosen = kinds();
const plot = document.querySelector(".plot");
const readout = plot.parentElement.querySelector(".readout");
log.readout = [readout.textContent];
plot.dispatchEvent(new KeyboardEvent("keydown", {key: "Home"})); log.readout.push(readout.textContent);
plot.dispatchEvent(new Event("blur")); log.readout.push(readout.textContent);
const table = document.querySelector("table.sortable");
const order = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
log.order = [order()];
const heading = table.tHead.rows[0].cells[3];
for (let i = 0; i < 2; i++) {
  heading.querySelector("button").click(); log.order.push([heading.getAttribute("aria-sort"), ...order()]);
}
document.body.dataset.log = JSON.stringify(log);
</script>
"""


@pytest.mark.slow
def test_slider_charts_and_sorting_work_in_a_browser(run: Path, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("needs chromium or google-chrome")
    html = write_report(run).read_text(encoding="utf-8")
    page = tmp_path / "driven.html"
    page.write_text(html.replace("</body>", DRIVER + "</body>"), encoding="utf-8")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
    ]
    flags += [
        "--disable-component-update",
        "--disable-sync",
        "--disable-quic",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    command = [browser, *flags, "--window-size=1200,900", "--dump-dom", page.as_uri()]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout
    log = json.loads(Page(dumped).all("body")[0]["data-log"] or "")
    assert log["start"] == ["50%", "bicubic", "restored"]
    assert (log["hover"], log["down"], log["drag"], log["released"]) == ("50%", "25%", "75%", "75%")
    assert log["focused"]
    assert log["keyboard"] == ["30%", "30 % bicubic, rest restored"]
    assert log["chosen"] == ["gt", "restored"]
    assert log["readout"] == ["29.17 dB at 200", "28.67 dB at 100", "29.17 dB at 200"]
    assert log["order"] == [
        ["baby", "bird", "head"],
        ["ascending", "bird", "baby", "head"],
        ["descending", "head", "baby", "bird"],
    ]
