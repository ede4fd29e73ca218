"""One process a run, in turn or several at once; whatever is killed is taken up again where it stood."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from atelier.errors import UserError
from atelier.experiment.budget import last_words
from atelier.experiment.manifest import DONE, FAILED, PENDING, RUNNING, Manifest
from atelier.experiment.measure import measure_run, read_result
from atelier.experiment.plan import Plan, Run
from atelier.experiment.worker import launch
from atelier.locks import RunLock, owner_of
from atelier.options.write import save_run_options
from atelier.train.checkpoint import CheckpointStore
from atelier.train.folder import RunFolder
from atelier.train.stopping import StopRequest, listening

#: A failed run is tried once more; one that had failed before this start gets one try.
TRIES = 2
#: Seconds between two looks at the processes.
PAUSE = 0.1
#: Seconds that a run gets to save and leave when the study is stopped.
PATIENCE = 120.0


@dataclass
class _Active:
    """A run that trains now."""

    run: Run
    process: BaseProcess
    lock: RunLock
    log: Path
    log_start: int


@dataclass
class Runner:
    """Trains and measures what is still to do of a plan.

    Args:
        plan: the study.
        manifest: its states.
        slots: one entry a process at a time: a value for ``CUDA_VISIBLE_DEVICES``, or None.
        threads: CPU threads of each process. They stay those of the study's first start: another number would
            change the last bits of every sum, and arms are compared to the bit.
        only: arms to run; empty: all.
        say: prints a line.
    """

    plan: Plan
    manifest: Manifest
    slots: Sequence[str | None]
    threads: int
    only: Sequence[str] = ()
    say: Callable[[str], None] = print
    _tries: dict[str, int] = field(default_factory=dict)
    _active: dict[int, _Active] = field(default_factory=dict)
    _elsewhere: set[str] = field(default_factory=set)

    def go(self) -> StopRequest:
        """Work until every run is done or has failed for good, or a signal asks to stop."""
        with listening() as stop:
            try:
                while not stop and self._round():
                    time.sleep(PAUSE)
            finally:
                # Also after an error of ours (a full disk): no process is left behind unattended.
                self._stop_all()
        return stop

    def _round(self) -> bool:
        """Collect what has ended, start what may start; False when nothing is left."""
        for slot, active in list(self._active.items()):
            code = active.process.exitcode
            if code is not None:
                del self._active[slot]
                self._collect(active, code)
        waiting = self._waiting()
        for slot, device in enumerate(self.slots):
            if slot in self._active:
                continue
            for run in waiting:
                if self._start(run, slot, device):
                    waiting.remove(run)
                    break
        return bool(self._active or waiting)

    def _waiting(self) -> list[Run]:
        states = self.manifest.read()["runs"]
        busy = {active.run.key for active in self._active.values()}
        waiting = []
        for run in self.plan.runs:
            entry = states.get(run.key, {})
            state = entry.get("state", PENDING)
            if state == FAILED and run.key not in self._tries:
                self._tries[run.key] = TRIES - 1
            wanted = not self.only or run.arm in self.only
            if wanted and run.key not in busy and state != DONE and self._tries.get(run.key, 0) < TRIES:
                waiting.append(run)
        return waiting

    def _start(self, run: Run, slot: int, device: str | None) -> bool:
        """Begin or continue a run in a free slot; False where another runner has it."""
        path = self.manifest.lock_path(run.key)
        lock = RunLock.take(path)
        if lock is None:
            if run.key not in self._elsewhere:
                self._elsewhere.add(run.key)
                self.say(f"{run.key}: in the hands of {owner_of(path)}")
            return False
        if self.manifest.read()["runs"].get(run.key, {}).get("state") == DONE:
            lock.release()  # another runner finished it between our look and our lock
            return True
        if self._is_trained(run):
            self._tries[run.key] = self._tries.get(run.key, 0) + 1
            try:
                self._finish(run)
            finally:
                lock.release()
            return True
        self._launch(run, slot, device, lock)
        return True

    def _is_trained(self, run: Run) -> bool:
        """The last step is saved; only the measuring is left."""
        newest = self._store(run).newest()
        return newest is not None and newest.iteration >= run.options.train.total_iter

    def _launch(self, run: Run, slot: int, device: str | None, lock: RunLock) -> None:
        option_file = self.plan.own / "options" / run.arm / f"seed_{run.seed}.yml"
        save_run_options(run.options, option_file)
        begun = self._store(run).newest()
        arguments = ["train", "-opt", str(option_file)]
        # Without a whole checkpoint there is nothing to resume, and torn ones would be an error.
        arguments += ["--auto_resume"] if begun is not None else []
        log = self.plan.own / "logs" / f"{run.arm}-seed_{run.seed}.log"
        log_start = log.stat().st_size if log.exists() else 0
        process = launch(
            arguments,
            log,
            threads=self.threads,
            environment={"CUDA_VISIBLE_DEVICES": device} if device is not None else None,
            keep=lock.descriptor,
        )
        self._active[slot] = _Active(run, process, lock, log, log_start)
        self._tries[run.key] = self._tries.get(run.key, 0) + 1
        with self.manifest.edit() as data:
            entry = data["runs"].setdefault(run.key, {})
            entry.update(state=RUNNING, attempt=entry.get("attempt", 0) + 1, error=None)
        at = f", from step {begun.iteration:,}" if begun is not None else ""
        self.say(f"{run.key}: started{at}" + (f" on device {device}" if device is not None else ""))

    def _collect(self, active: _Active, code: int) -> None:
        try:
            if code == 0:
                self._finish(active.run)
            else:
                self._fail(active.run, self._why(active, code))
        finally:
            active.lock.release()

    def _finish(self, run: Run) -> None:
        """Measure a trained run; its result file makes it done."""
        import torch

        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        try:
            result = read_result(run) or measure_run(self.plan.study, run)
        except UserError as error:
            self._fail(run, str(error))
            return
        self.manifest.set_run(run.key, state=DONE, error=None)
        metric = self.plan.study.primary.metric
        scores = ", ".join(
            f"{name} {metric} {float(each['metrics'][metric]['value']):.4f}"
            for name, each in result["sets"].items()
        )
        self.say(f"{run.key}: done, {scores}")

    def _fail(self, run: Run, why: str) -> None:
        again = self._tries.get(run.key, 0) < TRIES
        self.manifest.set_run(run.key, state=FAILED, error=why)
        self.say(f"{run.key}: failed{'; it is tried once more' if again else ''}: {why}")

    @staticmethod
    def _why(active: _Active, code: int) -> str:
        with active.log.open("rb") as file:
            file.seek(active.log_start)
            words = last_words(file.read().decode("utf-8", "replace"))
        ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{words} ({ended}; {active.log})"

    def _stop_all(self) -> None:
        """Ask every process to save and leave; the states stay ``running``, so the next start resumes them."""
        for active in self._active.values():
            active.process.terminate()
        deadline = time.monotonic() + PATIENCE
        for active in self._active.values():
            active.process.join(max(0.0, deadline - time.monotonic()))
            if active.process.exitcode is None:
                active.process.kill()
                active.process.join()
            active.lock.release()
        self._active.clear()

    def _store(self, run: Run) -> CheckpointStore:
        suffix = ".safetensors" if run.options.checkpoint_format == "safetensors" else ".pth"
        return CheckpointStore(RunFolder(run.folder), suffix)
