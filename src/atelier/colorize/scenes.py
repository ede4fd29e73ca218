"""Scene cuts of a grey film, found from neighbouring frames alone, so a stream of any length can be cut."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from atelier.colorize.flow_dis import LEAST, DisFlow
from atelier.colorize.flow_options import DisFlowOptions
from atelier.colorize.working import resized
from atelier.errors import UserError

#: Shorter side of the pictures that are compared.
SHORT_SIDE = 96
#: Frames that resemble each other less do not belong together. Synthetic films: 0.52 and more inside fast scenes,
#: 0.033 and less at cuts.
RESEMBLANCE = 0.15
#: Frames of a scene at least.
SHORTEST = 3


def thumbnail(whole: Tensor) -> Tensor:
    """Lightness ``[1, 1, H, W]`` on the CPU, its shorter side 96 pixels at most and 12 at least."""
    height, width = whole.shape[-2:]
    short = min(height, width)
    factor = max(LEAST, min(SHORT_SIDE, short)) / short
    size = (max(LEAST, round(height * factor)), max(LEAST, round(width * factor)))
    return resized(whole, size).cpu()


@torch.no_grad()
def resemblance(current: Tensor, previous: Tensor) -> float:
    """How far two frames show the same things: the mean confidence of the motion between them, in [0, 1].

    Where that is too little for one scene, ``current`` is also given the mean and standard deviation of ``previous``
    and the better of both counts: a flash or a fade changes the light, not the scene.

    Args:
        current: unit lightness ``[1, 1, h, w]`` of :func:`thumbnail`.
        previous: of the same size.
    """
    flow = DisFlow(DisFlowOptions())
    plain = float(flow.estimate(current, previous).confidence.mean())
    if plain >= RESEMBLANCE:
        return plain
    mean, deviation = current.mean(), current.std(correction=0)
    relit = (current - mean) * (previous.std(correction=0) / deviation.clamp(min=1e-6)) + previous.mean()
    return max(plain, float(flow.estimate(relit.clamp(-1, 1), previous).confidence.mean()))


class SceneRule(ABC):
    """Decides where scenes begin. Depends on two neighbouring frames and the number of the second, on nothing else."""

    #: Frames that a scene has at least; 1 where a person decides.
    shortest = SHORTEST
    #: The highest frame number that was named; -1 where none was.
    last_named = -1

    @abstractmethod
    def is_cut(self, current: Tensor, previous: Tensor, index: int) -> bool:
        """Whether frame ``index``, ``current``, begins a scene; both as :func:`thumbnail` gives them."""


class NoCuts(SceneRule):
    """The film is one scene."""

    def is_cut(self, current: Tensor, previous: Tensor, index: int) -> bool:
        """Never."""
        return False


class MotionCuts(SceneRule):
    """A cut is where no motion explains the next frame, see :func:`resemblance`."""

    def is_cut(self, current: Tensor, previous: Tensor, index: int) -> bool:
        """Whether the two resemble each other too little."""
        return resemblance(current, previous) < RESEMBLANCE


class ContentCuts(SceneRule):
    """PySceneDetect's ``ContentDetector`` with ``luma_only``: by default it averages luma with hue and saturation,
    which grey films do not have, and misses hard cuts. Its own minimum length is off, :attr:`shortest` stands for it.
    """

    def __init__(self) -> None:
        try:
            from scenedetect import FrameTimecode
            from scenedetect.detectors import ContentDetector
        except ImportError as error:
            raise UserError(
                "--scene-cut content needs PySceneDetect: pip install atelier[video]; --scene-cut auto needs nothing"
            ) from error
        self._moments = [FrameTimecode(number, 25.0) for number in (0, 1)]
        self._detector: Callable[[], ContentDetector] = lambda: ContentDetector(
            luma_only=True, min_scene_len=0
        )

    def is_cut(self, current: Tensor, previous: Tensor, index: int) -> bool:
        """Asks a detector that has seen nothing but ``previous``."""
        detector = self._detector()
        found = [
            detector.process_frame(moment, _levels(picture))
            for moment, picture in zip(self._moments, (previous, current), strict=True)
        ]
        return bool(found[-1])


class ListedCuts(SceneRule):
    """The first frames of scenes, from a file with their numbers."""

    shortest = 1

    def __init__(self, path: Path) -> None:
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--scene-cut {path}: cannot be read as text ({error})") from error
        frames = set()
        for number, line in enumerate(lines, 1):
            for word in re.split(r"[\s,;]+", line.partition("#")[0].strip()):
                if word and not word.isdecimal():
                    raise UserError(
                        f"{path}, line {number}: '{word}' is no frame number; the file lists the first frame of "
                        "each scene, counted from 0"
                    )
                frames |= {int(word)} if word else set()
        if not frames:
            raise UserError(f"{path} names no frame; --scene-cut off takes the film as one scene")
        self.frames = frozenset(frames)
        self.last_named = max(frames)

    def is_cut(self, current: Tensor, previous: Tensor, index: int) -> bool:
        """Whether the file names the frame."""
        return index in self.frames


def scene_rule(given: str) -> SceneRule:
    """``auto``, ``content``, ``off``, or the name of a file.

    Raises:
        UserError: neither, a file that is no list of frames, or PySceneDetect is missing.
    """
    rules: dict[str, Callable[[], SceneRule]] = {"auto": MotionCuts, "content": ContentCuts, "off": NoCuts}
    if given in rules:
        return rules[given]()
    if not Path(given).is_file():
        raise UserError(f"--scene-cut {given}: auto, content, off, or a file with frame numbers")
    return ListedCuts(Path(given))


class SceneFinder:
    """Tells frame by frame where the scenes of a film begin: by the rule, and none is shorter than it allows."""

    def __init__(self, rule: SceneRule) -> None:
        self._rule, self._first = rule, 0
        self._before: Tensor | None = None

    def begins(self, whole: Tensor, index: int) -> bool:
        """Whether frame ``index`` begins a scene after another; asked for every frame in order.

        Args:
            whole: its lightness ``[1, 1, H, W]``, unit scale, on the CPU.
            index: 0, 1, ...
        """
        small, before = thumbnail(whole), self._before
        self._before = small
        if before is None or index - self._first < self._rule.shortest:
            return False
        if not self._rule.is_cut(small, before, index):
            return False
        self._first = index
        return True


def _levels(picture: Tensor) -> np.ndarray:
    """Unit lightness ``[1, 1, h, w]`` as a grey 8-bit picture ``h×w×3``."""
    levels = ((picture[0, 0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    return np.repeat(levels[..., None], 3, axis=2)
