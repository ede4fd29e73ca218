"""What a run tells the world: the text log, ``metrics.jsonl``, TensorBoard and Weights & Biases."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Any

from atelier.errors import UserError
from atelier.evaluate.results import ValidationResult
from atelier.options.schema import LoggerOptions
from atelier.train.folder import RunFolder


def duration(seconds: float) -> str:
    """``3725`` -> ``1:02:05``."""
    total = max(round(seconds), 0)
    return f"{total // 3600}:{total % 3600 // 60:02d}:{total % 60:02d}"


def short_name(name: str) -> str:
    """The run's name as BasicSR shortens it in log lines: five letters and two dots."""
    return f"{name[:5]}.."


def _finite(value: Any) -> Any:
    """JSON has no inf or nan; they are written as strings, which readers can tell from a missing value."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return value


class Tracker:
    """Writes a run's log and numbers; a silent one (``active=False``) serves ranks other than the first.

    Args:
        folder: the run's folder.
        options: which trackers are on.
        run_name: shown in log lines and as the name of the W&B run.
        resolved: the resolved options, handed to W&B.
        start_iter: the step the run continues from; TensorBoard drops what it showed of later steps.
    """

    def __init__(
        self,
        folder: RunFolder,
        options: LoggerOptions,
        run_name: str,
        resolved: Mapping[str, Any],
        *,
        start_iter: int = 0,
        active: bool = True,
    ) -> None:
        self.active = active
        self._run_name = run_name
        self._format = options.log_format
        self._tensorboard: Any = None
        self._wandb: Any = None
        if not active:
            return
        try:
            self._log = folder.log.open("a", encoding="utf-8")
            self._metrics = folder.metrics.open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {error.filename}: {error.strerror}") from error
        if options.use_tb_logger:
            from torch.utils.tensorboard import SummaryWriter

            purge = start_iter + 1 if start_iter else None
            self._tensorboard = SummaryWriter(str(folder.root / "tb_logger"), purge_step=purge)
        if options.wandb.project is not None:
            self._wandb = self._start_wandb(options, resolved)

    def _start_wandb(self, options: LoggerOptions, resolved: Mapping[str, Any]) -> Any:
        check_trackers(options)
        import wandb

        return wandb.init(
            project=options.wandb.project,
            name=self._run_name,
            id=options.wandb.resume_id,
            resume="allow",
            config=dict(resolved),
        )

    def say(self, text: str) -> None:
        """One message on the terminal and in ``train.log``."""
        if not self.active:
            return
        print(text, flush=True)
        self._write_log(text)

    def _write_log(self, text: str) -> None:
        now = time.time()
        if self._format == "kair":
            stamp = (
                time.strftime("%y-%m-%d %H:%M:%S", time.localtime(now)) + f".{int(now * 1000) % 1000:03d} : "
            )
        else:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S ", time.localtime(now))
        self._log.write("".join(f"{stamp}{line}\n" for line in text.splitlines()))
        self._log.flush()

    def record(self, record: Mapping[str, Any]) -> None:
        """Append one object to ``metrics.jsonl`` and hand its numbers to the other trackers."""
        if not self.active:
            return
        stamped = {**record, "time": time.time()}
        self._metrics.write(json.dumps(_finite(stamped)) + "\n")
        self._metrics.flush()
        scalars = dict(_scalars(record))
        iteration = int(record["iter"])
        if self._tensorboard is not None:
            for name, value in scalars.items():
                self._tensorboard.add_scalar(name, value, iteration)
        if self._wandb is not None:
            self._wandb.log(scalars, step=iteration)

    def train_line(
        self, record: Mapping[str, Any], total_iter: int, epoch: int, pace: tuple[float, float]
    ) -> str:
        """BasicSR's or KAIR's line for one print: users parse it, so its beginning keeps that shape.

        Args:
            record: a ``train`` record of ``metrics.jsonl``.
            total_iter: steps of the whole run.
            epoch: bookkeeping only.
            pace: seconds per step and seconds of it spent waiting for data.
        """
        seconds, waiting = pace
        if self._format == "kair":
            terms = record["losses"]
            # KAIR logs the one loss of its plain training under this name.
            named = {"G_loss": next(iter(terms.values()))} if len(terms) == 1 else terms
            losses = " ".join(f"{name}: {value:.3e}" for name, value in named.items())
            return f"<epoch:{epoch:3d}, iter:{record['iter']:8,d}, lr:{record['lr']:.3e}> {losses} "
        eta = duration((total_iter - record["iter"]) * seconds)
        losses = " ".join(f"{name}: {value:.4e}" for name, value in record["losses"].items())
        line = (
            f"[{short_name(self._run_name)}][epoch:{epoch:3d}, iter:{record['iter']:8,d}, lr:({record['lr']:.3e},)] "
            f"[eta: {eta}, time (data): {seconds:.3f} ({waiting:.3f})] {losses} "
            f"images/s: {record['images_per_s']:.1f} data: {100 * record['data_share']:.0f} % "
            f"memory: {record['memory_mb']:.0f} MB"
        )
        if record.get("grad_norm") is not None:
            line += f" grad_norm: {record['grad_norm']:.3e}"
        return line

    def validation_text(
        self,
        results: Mapping[str, ValidationResult],
        beside: Mapping[str, ValidationResult],
        epoch: int,
        table: str,
    ) -> str:
        """The lines of one validation: ``table``, or KAIR's lines of every picture and the mean of the first metric.

        Args:
            results: of the network that is validated, the average where there is one.
            beside: of the trained weights themselves, where both are measured; KAIR's lines are theirs then.
            epoch: bookkeeping only.
            table: what BasicSR's format shows.
        """
        if self._format != "kair":
            lines = [
                f"{name}, not averaged: {mean.protocol} {mean.value:.4f}"
                for name, result in beside.items()
                for mean in result.metrics.values()
            ]
            return "\n".join([table, *lines])
        lines = []
        for key, result in results.items():
            lines += _kair_lines(beside.get(key, result), epoch, "")
            if key in beside:
                lines += _kair_lines(result, epoch, " of the averaged network")[-1:]
        return "\n".join(lines)

    def log_only(self, text: str) -> None:
        """A line for ``train.log`` alone (the terminal shows a progress bar)."""
        if self.active:
            self._write_log(text)

    def close(self) -> None:
        """Flush and close everything."""
        if not self.active:
            return
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()
        self._log.close()
        self._metrics.close()


def check_trackers(options: LoggerOptions) -> None:
    """Raise :class:`UserError` where a tracker is asked for that is not installed; before anything is written."""
    if options.wandb.project is None:
        return
    try:
        import wandb  # noqa: F401
    except ImportError as error:
        raise UserError(
            "logger.wandb.project is set but wandb is not installed; pip install 'atelier[wandb]' "
            "or set logger.wandb.project: null"
        ) from error


def _scalars(record: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The plain numbers of a record under TensorBoard names."""
    kind = record["kind"]
    if kind == "train":
        pairs = [(f"losses/{name}", value) for name, value in record["losses"].items()]
        pairs += [(f"details/{name}", value) for name, value in record.get("details", {}).items()]
        pairs += [
            (f"train/{name}", record[name])
            for name in ("lr", "images_per_s", "data_share", "teacher_share", "memory_mb", "grad_norm")
            if record.get(name) is not None
        ]
        return pairs
    if kind in {"validation", "baseline"}:
        label = record["set"] if kind == "validation" else f"{record['set']}_{record['method']}"
        return [(f"metrics/{label}/{name}", metric["value"]) for name, metric in record["metrics"].items()]
    return []


def _kair_lines(result: ValidationResult, epoch: int, whose: str) -> list[str]:
    name, mean = next(iter(result.metrics.items()))
    unit = "dB" if "psnr" in name.lower() else ""
    lines = [
        f"{place:->4d}--> {image:>10s} | {values[name]:<4.2f}{unit}"
        for place, (image, values) in enumerate(result.images.items(), 1)
    ]
    average = f"Average {name.upper()}{whose} : {mean.value:<.2f}{unit}"
    return [*lines, f"<epoch:{epoch:3d}, iter:{result.iteration:8,d}, {average}"]
