"""The folder of one run: where each file is, and starting afresh without losing an older run."""

from __future__ import annotations

import glob
import json
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from atelier.errors import UserError
from atelier.files import atomic_write, describe_os_error


@dataclass(frozen=True)
class RunFolder:
    """Paths of ``experiments/NAME`` (DESIGN, "Experiments on disk")."""

    root: Path

    @property
    def models(self) -> Path:
        """Weight files: ``net_g_5000.pth``, ``net_g_latest.pth``, ``net_g_best.pth``."""
        return self.root / "models"

    @property
    def states(self) -> Path:
        """``5000.state`` and its manifest ``5000.json``."""
        return self.root / "training_states"

    @property
    def visualization(self) -> Path:
        """``IMAGE/IMAGE_5000.png``."""
        return self.root / "visualization"

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.root / "metrics.jsonl"

    @property
    def log(self) -> Path:
        """The text log."""
        return self.root / "train.log"

    def is_claimed(self, iteration: int) -> bool:
        """Whether files of this step are no other program's checkpoint: it has a manifest of ours, or was set aside."""
        return any((self.states / f"{iteration}{suffix}").exists() for suffix in (".json", ".superseded"))

    @property
    def load_report(self) -> Path:
        """What became of every tensor of the weights that the run began with."""
        return self.models / "load_report.json"

    @property
    def options(self) -> Path:
        """The resolved options, loadable again."""
        return self.root / "options.yml"

    def create(self) -> None:
        """Make the folders; a folder that cannot be written is an error before anything is computed."""
        try:
            for folder in (self.root, self.models, self.states):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(describe_os_error(error, self.root)) from error
        atomic_write(self.root / ".writable", "")
        (self.root / ".writable").unlink(missing_ok=True)

    def archive(self) -> Path | None:
        """Rename an existing run to ``NAME_archived_DATE``; returns the new place, None if there was none."""
        if not self.root.exists() or not any(self.root.iterdir()):
            return None
        stamp = datetime.now().strftime("%Y%m%d_%H%M%S")
        target = self.root.with_name(f"{self.root.name}_archived_{stamp}")
        count = 1
        while target.exists():
            count += 1
            target = self.root.with_name(f"{self.root.name}_archived_{stamp}_{count}")
        try:
            self.root.rename(target)
        except OSError as error:
            raise UserError(f"cannot set the older run aside as {target}: {error.strerror}") from error
        return target

    def archived(self) -> list[Path]:
        """Older runs of this name that :meth:`archive` has set aside."""
        return sorted(self.root.parent.glob(f"{glob.escape(self.root.name)}_archived_*"))

    def remove(self) -> None:
        """Delete the folder; only debug runs do this."""
        if self.root.exists():
            shutil.rmtree(self.root)

    def forget_references(self) -> None:
        """Remove the gt, lq and bicubic samples: they are written once, and the data have changed since."""
        for kind in ("gt", "lq", "bicubic"):
            for path in self.visualization.rglob(f"*_{kind}.png"):
                path.unlink()

    def keep_metrics_until(self, iteration: int) -> None:
        """Drop records after ``iteration``: steps that will be computed again must not be logged twice.

        A torn last line (power loss while appending) is dropped as well.
        """
        if not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record: dict[str, Any] = json.loads(line)
            except json.JSONDecodeError:
                continue
            if record.get("iter", 0) <= iteration:
                kept.append(line)
        atomic_write(self.metrics, "".join(line + "\n" for line in kept))
