"""Detectors of a run's health: pure functions of the records in ``metrics.jsonl``, each with a remedy.

Every detector takes the history of the run so far and its options, and returns an alarm or None. :class:`Watch` asks
them all as a run goes on and lets each one speak once; :func:`stability` asks them again about the last quarter of a
finished run. Thresholds stand under ``health.detectors``.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atelier.errors import UserError
from atelier.train.detector_options import (
    CollapseOptions,
    ColourOptions,
    ConvergenceOptions,
    DetectorOptions,
    SlowOptions,
    SmoothingOptions,
)
from atelier.train.run_history import History, Record, number

LN2 = math.log(2)


@dataclass(frozen=True)
class Alarm:
    """What a detector saw.

    Attributes:
        detector: its name, in words.
        iteration: of the record that gave it away.
        message: what was seen, with numbers.
        remedy: what to do.
    """

    detector: str
    iteration: int
    message: str
    remedy: str

    def to_json(self) -> dict[str, Any]:
        """The record of ``metrics.jsonl``."""
        return {
            "kind": "alarm",
            "iter": self.iteration,
            "detector": self.detector,
            "message": self.message,
            "remedy": self.remedy,
        }

    def text(self) -> str:
        """One line for the log."""
        return f"warning: {self.detector} at step {self.iteration}: {self.message}. {self.remedy}"


def _pixel_term(record: Record) -> str | None:
    """``l_g_pix``, else the first loss of the generator that is no GAN term."""
    names = list(record["losses"])
    if "l_g_pix" in names:
        return "l_g_pix"
    return next((n for n in names if not n.startswith(("l_d_", "out_d_")) and n != "l_g_gan"), None)


def rising(values: Sequence[float]) -> tuple[float, float]:
    """Theil-Sen slope per place (Sen 1968) and the one-sided p of Mann-Kendall's test that it is above zero."""
    count = len(values)
    slopes = [(values[j] - values[i]) / (j - i) for i in range(count - 1) for j in range(i + 1, count)]
    score = sum((slope > 0) - (slope < 0) for slope in slopes)
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    z = (score - (score > 0) + (score < 0)) / deviation
    return statistics.median(slopes), 0.5 * math.erfc(z / math.sqrt(2))


def not_converging(history: History, options: ConvergenceOptions, total_iter: int) -> Alarm | None:
    """The pixel loss rises, or stands far above its best, or quality fell below the first validation's.

    A rise needs a positive Theil-Sen slope over the last ``window`` steps that adds up to ``rise`` of the median, with
    p below ``p`` divided by the number of such windows so far: else noise would pass for a rise sooner or later.
    """
    remedy = "Lower the learning rate (train.optim_g.lr), or check the data"
    window = min(options.window, max(1, total_iter // 4))
    lines = history.since(window)
    name = _pixel_term(lines[-1]) if lines else None
    values = (
        [value for value in (number(line["losses"], name) for line in lines) if math.isfinite(value)]
        if name
        else []
    )
    if len(values) >= options.least_lines:
        # At most some fifty places: pairs grow with the square, and more say no more.
        thin = values[:: math.ceil(len(values) / 50)]
        slope, p = rising(thin)
        median = statistics.median(values)
        rise = slope * (len(thin) - 1) / median if median > 0 else 0.0
        at = int(lines[-1]["iter"])
        # Every window of a run is one more chance for noise to look like a rise (Bonferroni).
        windows = max(1, len(history.train) // len(values))
        if p < options.p / windows and rise > options.rise:
            seen = f"{name} rose by {100 * rise:.0f} % over the last {window} steps (p = {p:.1g})"
            return Alarm("not converging", at, seen, remedy)
        best = history.best_median(name or "", len(values))
        if best is not None and median > options.above_best * best:
            seen = f"the median of {name} is {median:.3g}, {median / best:.1f} times its best {best:.3g}"
            return Alarm("not converging", at, seen, remedy)
    return _below_first(history, options, total_iter, remedy)


def _below_first(history: History, options: ConvergenceOptions, total_iter: int, remedy: str) -> Alarm | None:
    if len(history.deciding) < 2:
        return None
    (since, start, _), (at, now, higher) = history.deciding[0], history.deciding[-1]
    # Measured in another way since it had learned: then a value below that start is no lack of learning.
    if since != history.first_validation and since >= options.patience * total_iter:
        return None
    least = options.fall * abs(start)  # averaged weights hardly move at first: a last digit says nothing
    worse = now < start - least if higher else now > start + least
    # 20,000 of the source plan's 200,000 steps, as a share.
    if worse and at >= options.patience * total_iter:
        seen = f"validation gives {now:.4g}, worse than the first one's {start:.4g}"
        return Alarm("not converging", at, seen, remedy)
    return None


def collapse(history: History, options: CollapseOptions) -> Alarm | None:
    """The discriminator has won, or learns nothing, or its term drowns the generator's others.

    Losses below zero are those of the Wasserstein kind, whose size says nothing: then only the share is looked at.
    """
    lines = history.since(options.steps)
    if not lines or "l_g_gan" not in lines[-1]["losses"]:
        return None
    at = int(lines[-1]["iter"])
    alarm = "discriminator collapse"
    real, fake = ([number(line["losses"], f"l_d_{kind}") for line in lines] for kind in ("real", "fake"))
    weaker = "Lower the discriminator's learning rate or the GAN weight (gan_opt.loss_weight)"
    if all(value >= 0 for value in (*real, *fake)):
        total = statistics.fmean(real) + statistics.fmean(fake)
        if total < options.least_loss:
            return Alarm(
                alarm,
                at,
                f"l_d_real + l_d_fake is {total:.3g} over {options.steps} steps: it has won",
                weaker,
            )
        logits = [
            number(line["losses"], "out_d_real") - number(line["losses"], "out_d_fake") for line in lines
        ]
        if statistics.fmean(logits) > options.most_gap:
            gap = statistics.fmean(logits)
            return Alarm(
                alarm,
                at,
                f"its outputs for real and fake are {gap:.1f} apart over {options.steps} steps",
                weaker,
            )
    shares = [_gan_share(line) for line in lines]
    if all(share > options.most_share for share in shares):
        mean = 100 * statistics.fmean(shares)
        seen = f"|l_g_gan| is {mean:.0f} % of the generator's loss for {options.steps} steps"
        return Alarm(alarm, at, seen, "Lower the GAN weight (gan_opt.loss_weight)")
    long = history.since(options.idle_steps)
    idle = [
        abs(number(line["losses"], f"l_d_{kind}") - LN2) <= options.idle_band
        for line in long
        for kind in ("real", "fake")
    ]
    if idle and all(idle):
        seen = f"l_d_real and l_d_fake stay at ln 2 for {options.idle_steps} steps: it learns nothing"
        return Alarm(
            alarm, at, seen, "Raise the discriminator's learning rate, or check that net_d is trained"
        )
    return None


def _gan_share(record: Record) -> float:
    terms = {
        name: abs(number(record["losses"], name)) for name in record["losses"] if name.startswith("l_g_")
    }
    total = sum(terms.values())
    return terms.get("l_g_gan", 0.0) / total if total else 0.0


def colour_drift(history: History, options: ColourOptions) -> Alarm | None:
    """The latest validation's colours are off as a whole, or full of fine colour noise."""
    if history.signs is None or history.signs[0] < options.after_steps:
        return None
    at, name, signs = history.signs
    remedy = (
        "Wait until the averaged weights have caught up (train.ema_decay), look for a range or channel order that "
        "differs between lq and gt, check how weights were transferred, or lower the GAN weight if there is one"
    )
    shift, chroma = float(signs.get("colour_shift", 0)), float(signs.get("chroma", 1))
    if shift > options.most_shift:
        seen = f"a channel's mean on {name} is off by {shift:.1f} of 255 levels"
        return Alarm("colour drift", at, seen, remedy)
    if chroma > options.most_chroma:
        seen = f"fine colour structure on {name} has {chroma:.1f} times the energy of gt's"
        return Alarm("colour drift", at, seen, remedy)
    return None


def over_smoothing(history: History, options: SmoothingOptions) -> Alarm | None:
    """Detail goes while the pixel metric rises.

    Only for runs with a perceptual or GAN term: a pixel loss alone is known to give the mean of all possible details.
    """
    deciding = history.deciding
    terms = set(history.train[-1]["losses"]) if history.train else set()
    if history.signs is None or len(deciding) < 2 or not terms & {"l_g_gan", "l_g_percep"}:
        return None
    at, name, signs = history.signs
    sharpness = float(signs.get("sharpness", 1))
    (_, start, _), (_, now, higher) = deciding[0], deciding[-1]
    if sharpness < options.least_sharpness and (now > start if higher else now < start):
        seen = f"restored pictures of {name} have {sharpness:.2f} of gt's gradient energy, while the metric improves"
        remedy = "Raise the perceptual weight (perceptual_opt.perceptual_weight)"
        return Alarm("over-smoothing", at, seen, remedy)
    return None


def slow(history: History, options: SlowOptions, samples_per_step: int) -> Alarm | None:
    """Steps per second below the wish, after the warm-up; the share of waiting tells whether data or compute is why."""
    measured = (
        line
        for line in itertools.takewhile(
            lambda line: line["iter"] > options.after_steps, reversed(history.train)
        )
        if float(line["images_per_s"]) > 0
    )
    recent = list(itertools.islice(measured, options.least_lines))
    if len(recent) < options.least_lines:
        return None
    rate = statistics.median(float(line["images_per_s"]) for line in recent) / samples_per_step
    if rate >= options.min_it_per_s:
        return None
    waiting = statistics.median(float(line["data_share"]) for line in recent)
    seen = f"{rate:.2f} steps a second, below health.detectors.slow.min_it_per_s {options.min_it_per_s:g}; "
    seen += f"{100 * waiting:.0f} % of the time goes into waiting for data, so "
    if waiting > options.data_share:
        seen += "the data are the cause"
        remedy = "More loader workers (num_worker_per_gpu), a faster disk, or the shard cache (cache.enabled)"
    else:
        seen += "computing is the cause"
        remedy = "A GPU, smaller gt_size or batch_size_per_gpu, or mixed precision"
    return Alarm("slow training", int(recent[0]["iter"]), seen, remedy)


def loss_alarms(history: History, options: DetectorOptions, total_iter: int) -> list[Alarm]:
    """What is wrong with losses and pictures at the last record of ``history`` (speed left out)."""
    from atelier.train.teaching_detectors import dead_term, feature_collapse

    found = (
        not_converging(history, options.convergence, total_iter),
        collapse(history, options.collapse),
        colour_drift(history, options.colour),
        over_smoothing(history, options.smoothing),
        feature_collapse(history, options.teaching),
        dead_term(history, options.teaching, total_iter),
    )
    return [alarm for alarm in found if alarm is not None]


class Watch:
    """The detectors beside a running training; each speaks once.

    Args:
        options: thresholds.
        total_iter: steps of the whole run.
        samples_per_step: over all ranks.
        records: of the run so far (a resumed one), alarms among them.
    """

    def __init__(
        self,
        options: DetectorOptions,
        total_iter: int,
        samples_per_step: int,
        records: Sequence[Record] = (),
    ) -> None:
        self._options, self._total, self._samples = options, total_iter, samples_per_step
        self._history = History(records)
        self._spoken = {record.get("detector") for record in records if record.get("kind") == "alarm"}

    def see(self, record: Record) -> list[Alarm]:
        """Take one more record; returns the alarms that are new."""
        if not self._options.enabled:
            return []
        self._history.add(record)
        found = loss_alarms(self._history, self._options, self._total)
        speed = slow(self._history, self._options.slow, self._samples)
        new = [alarm for alarm in [*found, *([speed] if speed else [])] if alarm.detector not in self._spoken]
        self._spoken |= {alarm.detector for alarm in new}
        return new


def read_records(metrics: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``; none where it does not exist, torn lines left out."""
    if not metrics.is_file():
        return []
    records = []
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and "kind" in record and "iter" in record:
            records.append(record)
    return records


def stability(run: Path) -> tuple[int | None, str]:
    """How many detectors of losses and pictures would speak in the last quarter of ``experiments/NAME``, and which.

    None where the folder's records do not reach far enough to tell.

    Raises:
        UserError: ``run`` is no folder of a run.
    """
    from atelier.evaluate.run_record import read_run

    record = read_run(run)
    section = record.options.get("health")
    detectors = section.get("detectors") if isinstance(section, Mapping) else None
    try:
        options = DetectorOptions.model_validate(detectors or {})
    except ValueError as error:
        raise UserError(f"{run}/options.yml: health.detectors cannot be read: {error}") from error
    records = [
        each for each in read_records(run / "metrics.jsonl") if each["kind"] in ("train", "validation")
    ]
    if not any(each["kind"] == "train" for each in records):
        return None, f"{run} has no training records"
    last = max(int(each["iter"]) for each in records)
    found: dict[str, Alarm] = {}
    history = History()
    for each in records:
        history.add(each)
        if each["iter"] > 0.75 * last:
            for alarm in loss_alarms(history, options, last):
                found.setdefault(alarm.detector, alarm)
    return len(found), "; ".join(f"{alarm.detector}: {alarm.message}" for alarm in found.values())
