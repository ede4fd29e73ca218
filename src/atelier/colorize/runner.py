"""A film through the colorizer: streamed, cut into scenes, resumed after a stop, and what became of it."""

from __future__ import annotations

import io
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from atelier.colorize.bank import Choice, PerScene, ReferenceBank
from atelier.colorize.flow import FlowBackend
from atelier.colorize.opening import OpenedSystem
from atelier.colorize.reference_files import ReferenceFile
from atelier.colorize.scenes import RESEMBLANCE, SceneRule, resemblance, scene_rule, thumbnail
from atelier.colorize.state import ClipFlow, SequenceState
from atelier.colorize.working import ChromaUpsample, WorkingSize, enlarge, join, lightness
from atelier.errors import UserError
from atelier.files import sha256_of
from atelier.images.files import image_shape
from atelier.images.video import FrameSource, VideoFrame, open_video
from atelier.images.video_encode import Encoding
from atelier.images.video_film import FilmReport, transform_film
from atelier.images.video_targets import open_target

if TYPE_CHECKING:
    from numpy.typing import NDArray

FilmMode = Literal["fused", "average", "flow", "exemplar"]
Head = Literal["warp", "colornet"]


@dataclass(frozen=True)
class ColorizeOptions:
    """How a film is coloured; the command line's options describe each.

    Attributes:
        mode: whose colours: the fusion network's, the average's, the flow's, the references'.
        exemplar_head: with ``mode`` exemplar, what makes colours of a match: the match itself or SwinTExCo's network.
        short_side: of working pictures, a multiple of 32.
        scene_cut: ``auto``, ``content``, ``off``, or a file with frame numbers.
        per_scene: all references for each scene, or the one that resembles its first frame most.
        chroma_upsample: how chroma comes to full size.
        saturation: factor of the references' chroma.
        max_reference_keys: see :class:`ReferenceBank`.
        segment: frames of a segment, what a stop can cost.
        rate: frames a second of numbered pictures.
        allow_damaged: take what decodes of a damaged film.
        overwrite: begin anew.
    """

    mode: FilmMode = "fused"
    exemplar_head: Head = "warp"
    short_side: int = 256
    scene_cut: str = "auto"
    per_scene: PerScene = "all"
    chroma_upsample: ChromaUpsample = "bilinear"
    saturation: float = 1.0
    max_reference_keys: int | None = None
    segment: int = 500
    rate: Fraction | None = None
    allow_damaged: bool = False
    overwrite: bool = False


@dataclass
class Scene:
    """Frames from ``first`` on with references of their own; names of files."""

    first: int
    frames: int
    references: list[str]
    left_out: list[str]
    resemblance: dict[str, float]

    def __str__(self) -> str:
        text = f"from frame {self.first}: {_listed(self.references)}"
        if self.resemblance:
            best = max(self.resemblance[name] for name in self.references)
            text += f" (resemblance {best:.2f})"
        if self.left_out:
            text += f"; left out for memory: {_listed(self.left_out)}"
        return text


@dataclass
class _State:
    """Everything that the next frame needs; plain values and tensors."""

    sequence: SequenceState = field(default_factory=SequenceState)
    small: Tensor | None = None
    kept: tuple[int, ...] = ()
    scenes: list[Scene] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    frames: int = 0
    clipped: int = 0
    confidence: float = 0.0
    carried: int = 0
    similarity: float = 0.0
    matched: int = 0

    def save(self) -> bytes:
        plain = {
            **self.__dict__,
            "sequence": self.sequence.state_dict(),
            "scenes": [asdict(scene) for scene in self.scenes],
        }
        buffer = io.BytesIO()
        torch.save(plain, buffer)
        return buffer.getvalue()

    @classmethod
    def load(cls, saved: bytes, device: torch.device) -> _State:
        try:
            plain = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
            sequence = SequenceState.from_state_dict(plain.pop("sequence")).to(device)
            scenes = [Scene(**scene) for scene in plain.pop("scenes")]
            return cls(sequence=sequence, scenes=scenes, **plain)
        except (pickle.UnpicklingError, RuntimeError, TypeError, KeyError, AttributeError, EOFError) as error:
            raise UserError(
                f"the saved state of this film cannot be read ({error}); --overwrite begins anew"
            ) from error


@dataclass
class ColouredFilm:
    """What became of a film; :meth:`summary` is plain values, ``str()`` is for people.

    Attributes:
        clipped: share of pixels outside sRGB.
        confidence: mean confidence of the flow where there was one; None where there was none.
        similarity: mean similarity of the match; None where nothing was matched.
        busy: stage -> seconds; stages overlap.
    """

    film: FilmReport
    source: str
    output: str
    size: WorkingSize
    parts: Mapping[str, str]
    options: ColorizeOptions
    references: list[dict[str, Any]]
    scenes: list[Scene]
    notes: list[str]
    clipped: float
    confidence: float | None
    similarity: float | None
    busy: dict[str, float]

    def summary(self) -> dict[str, Any]:
        """For ``--summary``."""
        height, width = self.size.full
        work = self.size.content
        return {
            "source": self.source,
            "output": self.output,
            "frames": self.film.frames,
            "resumed_frames": self.film.resumed,
            "size": [width, height],
            "working_size": [work[1], work[0]],
            "mode": self.options.mode,
            "exemplar_head": self.options.exemplar_head,
            "chroma_upsample": self.options.chroma_upsample,
            "parts": dict(self.parts),
            "references": self.references,
            "scene_cut": self.options.scene_cut,
            "scenes": [asdict(scene) for scene in self.scenes],
            "notes": self.notes,
            "out_of_gamut": self.clipped,
            "flow_confidence": self.confidence,
            "exemplar_similarity": self.similarity,
            "seconds": self.film.seconds,
            "busy_seconds": self.busy,
            "left_out_streams": self.film.left_out,
        }

    def __str__(self) -> str:
        lines = [f"{self.output}: {self.film}"]
        numbers = []
        if self.confidence is not None:
            numbers.append(f"mean confidence of the flow {self.confidence:.2f}")
        if self.similarity is not None:
            numbers.append(f"mean similarity to the references {self.similarity:.2f}")
        numbers.append(f"{100 * self.clipped:.2f} % of the pixels lie outside sRGB and were clipped")
        count = len(self.scenes)
        lines.append(f"{count} scene{'s' if count != 1 else ''}; {', '.join(numbers)}")
        return "\n".join(lines)


def colorize_film(
    opened: OpenedSystem,
    source_name: str,
    target_name: str,
    references: Sequence[ReferenceFile],
    options: ColorizeOptions,
    *,
    encoding: Encoding | None = None,
    device: torch.device | str = "cpu",
    tell: Callable[[str], None] = lambda line: None,
    quiet: bool = False,
) -> ColouredFilm:
    """Colour a film as a stream: memory does not grow with its length.

    Decoding, lightness and motion (one frame ahead), colouring and encoding work at the same time. Stopped anywhere,
    the same call goes on and gives the same packets as one that was never stopped.

    Args:
        opened: from :func:`atelier.colorize.opening.open_system`, on ``device``.
        source_name: a film, a folder of frames, a pattern, or ``-``.
        target_name: a film, ``DIR/``, a pattern, or ``-``.
        tell: takes lines for people as things happen: sizes, scenes, warnings.
        quiet: show no progress.

    Raises:
        UserError: bad input or output, told before anything is written wherever it can be known then.
    """
    device = torch.device(device)
    rule = scene_rule(options.scene_cut)
    source = open_video(source_name, rate=options.rate, allow_damaged=options.allow_damaged)
    bank = None
    try:
        facts = source.facts
        size = WorkingSize.of(facts.width, facts.height, options.short_side)
        named = _last_named(references, rule)
        _check_source(source, options, named)
        _check_head(opened, options, size)
        bank = ReferenceBank(
            opened.system,
            references,
            size,
            limit=options.max_reference_keys,
            saturation=options.saturation,
            per_scene=options.per_scene,
            device=device,
        )
        target = open_target(
            target_name,
            source,
            (facts.width, facts.height),
            encoding,
            options=_decides(opened, references, options, rule, device),
            segment=options.segment,
            overwrite=options.overwrite,
        )
        for note in bank.notes:
            tell(note)
        tell(
            f"{facts.name}: {facts.width}x{facts.height}"
            + (f", about {facts.frames} frames" if facts.frames else "")
            + f"; colours are found at {size.content[1]}x{size.content[0]}"
        )
        state = _State() if target.state is None else _State.load(target.state, device)
        busy = _Busy()
        colourist = _Colourist(opened, bank, size, rule, options, state, busy, tell)
        before = (state.sequence.lightness, state.small) if target.frames_done else (None, None)
        ahead = _Ahead(source, opened.system.flow, size, rule, options, device, busy, named, before)
        try:
            film = transform_film(
                ahead,
                target,
                lambda frame, at: colourist.colour(frame, ahead.take(frame.index), at),
                state,
                save_state=_State.save,  # what a stopped run left was read above: the source needs it too
                title="Colouring",
                quiet=quiet,
            )
        finally:
            ahead.stop()
        report = colourist.report(film, source_name, target_name)
        report.notes = [*bank.notes, *report.notes]
        damaged = getattr(source, "damaged", ())
        if damaged:
            report.notes.append(f"{len(damaged)} places of the source are damaged; what decodes was coloured")
        return report
    finally:
        source.close()
        if bank is not None:
            bank.close()


@dataclass
class _Look:
    """What is known of a frame before it is coloured."""

    whole: Tensor
    work: Tensor
    small: Tensor
    motion: Future[tuple[ClipFlow | None, bool]]


class _Busy:
    """Seconds in which each stage worked, added up from several threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, stage: str, began: float) -> float:
        """Count the time since ``began`` and give the present."""
        now = time.perf_counter()
        with self._lock:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + now - began
        return now


class _Ahead:
    """The source, with each frame's lightness and motion found while the frames before it are coloured.

    Motion is found ahead where it depends on lightness alone and remembers nothing; whether a scene begins always is.
    """

    path = None

    def __init__(
        self,
        source: FrameSource,
        flow: FlowBackend,
        size: WorkingSize,
        rule: SceneRule,
        options: ColorizeOptions,
        device: torch.device,
        busy: _Busy,
        last_named: tuple[int, str],
        before: tuple[Tensor | None, Tensor | None],
    ) -> None:
        self._source, self.facts = source, source.facts
        self._flow, self._size, self._rule, self._device, self._busy = flow, size, rule, device, busy
        self._finds_flow = options.mode != "exemplar" and not flow.needs_colour and flow.initial_state() is None
        self._mode, self._named = options.mode, last_named
        self._work, self._small = before
        self._looks: dict[int, _Look] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="motion")

    def frames(self, start: int = 0) -> Iterator[VideoFrame]:
        """Frames of the source; each can be taken once it was given."""
        count = start
        for frame in self._source.frames(start):
            self._looks[frame.index] = self._look(frame)
            count = frame.index + 1
            yield frame
        if count == 1 and self._mode != "exemplar":
            raise _one_frame(self.facts.name)
        if self._named[0] >= count:
            raise _beyond(self.facts.name, count, self._named)

    def take(self, index: int) -> _Look:
        """What is known of frame ``index``; forgotten here."""
        return self._looks.pop(index)

    def fingerprint(self) -> str | None:
        """The source's."""
        return self._source.fingerprint()

    def close(self) -> None:
        """The source is closed by who opened it."""

    def stop(self) -> None:
        """Wait for what is under way, drop what is not."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    @torch.no_grad()
    def _look(self, frame: VideoFrame) -> _Look:
        began = time.perf_counter()
        whole = lightness(frame.pixels)
        small = thumbnail(whole)
        whole = whole.to(self._device)
        work = self._size.shrink(whole)
        self._busy.add("lightness", began)
        motion = self._pool.submit(self._motion, frame.index, work, self._work, small, self._small)
        self._work, self._small = work, small
        return _Look(whole, work, small, motion)

    @torch.no_grad()
    def _motion(
        self, index: int, work: Tensor, last_work: Tensor | None, small: Tensor, last_small: Tensor | None
    ) -> tuple[ClipFlow | None, bool]:
        """(motion, whether a scene begins)."""
        if last_work is None or last_small is None:
            return None, False
        began = time.perf_counter()
        cut = self._rule.is_cut(small, last_small, index)
        began = self._busy.add("scenes", began)
        if not self._finds_flow:
            return None, cut
        found = self._flow.estimate(work, last_work)
        self._busy.add("flow", began)
        return ClipFlow(found.flow[:, None], found.confidence[:, None]), cut


class _Colourist:
    """Colours frames in order."""

    def __init__(
        self,
        opened: OpenedSystem,
        bank: ReferenceBank,
        size: WorkingSize,
        rule: SceneRule,
        options: ColorizeOptions,
        state: _State,
        busy: _Busy,
        tell: Callable[[str], None],
    ) -> None:
        self._opened, self._bank, self._size, self._rule = opened, bank, size, rule
        self._options, self._state, self._busy, self._tell = options, state, busy, tell
        self._names = [str(file) for file in bank.files]

    @torch.no_grad()
    def colour(self, frame: VideoFrame, look: _Look, state: _State) -> tuple[NDArray[Any], _State]:
        """The coloured picture and the state after it (``state``, changed)."""
        index, system = frame.index, self._opened.system
        flows, cut = look.motion.result()
        began = time.perf_counter()
        if not state.scenes:
            self._begin_scene(index, look, state)
        elif cut and index - state.scenes[-1].first >= self._rule.shortest:
            state.sequence = state.sequence.new_scene()
            self._begin_scene(index, look, state)
        pinned = self._bank.anchor(index)
        prepared = self._bank.prepared(state.kept, index, pinned)
        first = state.sequence.lightness is None
        out = system(
            look.work[:, None],
            prepared,
            flows=None if first else flows,
            state=state.sequence,
            mode=self._options.mode,
        )
        ab, after = out.ab[:, 0], out.state
        if pinned is not None:
            self._compare(index, pinned, look, state)
        elif self._options.exemplar_head == "colornet":
            past = state.sequence
            previous = None if past.lightness is None else torch.cat([past.lightness, past.ab], dim=1)  # type: ignore[list-item]
            ab = system.exemplar.refine(look.work, out.exemplar_ab[:, 0], out.exemplar_sim[:, 0], previous)  # type: ignore[operator]
            after = replace(after, ab=ab)
        if not first and self._options.mode != "exemplar":
            state.confidence += float(self._size.crop(out.flow_conf[:, 0]).mean())
            state.carried += 1
        if first or self._options.mode != "flow":
            state.similarity += float(self._size.crop(out.exemplar_sim[:, 0]).mean())
            state.matched += 1
        began = self._busy.add("colours", began)
        chroma = enlarge(ab, self._size, look.whole, look.work, self._options.chroma_upsample)
        pixels, clipped = join(look.whole, chroma, frame.pixels.dtype)
        self._busy.add("full size", began)
        state.sequence, state.small = after, look.small
        state.frames += 1
        state.clipped += clipped
        state.scenes[-1].frames += 1
        self._state = state
        return pixels, state

    def report(self, film: FilmReport, source: str, target: str) -> ColouredFilm:
        """What became of the film."""
        state = self._state
        height, width = self._size.full
        references = [
            {"file": str(file.path), "frame": file.frame, "keys": count}
            for file, count in zip(self._bank.files, self._bank.counts, strict=True)
        ]
        busy = {"decoding": film.decoding, **self._busy.seconds, "encoding": film.encoding}
        return ColouredFilm(
            film=film,
            source=source,
            output=target,
            size=self._size,
            parts=self._opened.parts,
            options=self._options,
            references=references,
            scenes=state.scenes,
            notes=[*self._opened.notes, *state.warnings],
            clipped=state.clipped / max(state.frames * height * width, 1),
            confidence=state.confidence / state.carried if state.carried else None,
            similarity=state.similarity / state.matched if state.matched else None,
            busy=busy,
        )

    def _begin_scene(self, index: int, look: _Look, state: _State) -> None:
        choice: Choice = self._bank.choose(look.work, index)
        state.kept = choice.kept
        likeness = {self._names[r]: value for r, value in enumerate(choice.resemblance)}
        scene = Scene(
            index, 0, [self._names[r] for r in choice.kept], [self._names[r] for r in choice.left_out], likeness
        )
        state.scenes.append(scene)
        self._tell(f"scene {len(state.scenes)} {scene}")

    def _compare(self, index: int, pinned: Tensor, look: _Look, state: _State) -> None:
        shown = thumbnail(self._size.crop(pinned[:, :1]).float())
        seen = thumbnail(self._size.crop(look.work))
        found = resemblance(shown, seen)
        if found < RESEMBLANCE:
            warning = (
                f"the picture that pins frame {index} does not resemble it (confidence {found:.2f}, "
                f"{RESEMBLANCE:g} is the least of one scene)"
            )
            state.warnings.append(warning)
            self._tell(f"warning: {warning}")


def _decides(
    opened: OpenedSystem,
    references: Sequence[ReferenceFile],
    options: ColorizeOptions,
    rule: SceneRule,
    device: torch.device,
) -> dict[str, Any]:
    """Plain values of all that decides the pictures: a run goes on with the same alone."""
    frames = getattr(rule, "frames", None)
    return {
        "model": opened.digest,
        "references": [[sha256_of(file.path), file.frame] for file in references],
        "mode": options.mode,
        "exemplar_head": options.exemplar_head,
        "short_side": options.short_side,
        "scene_cut": options.scene_cut if frames is None else sorted(frames),
        "reference_per_scene": options.per_scene,
        "chroma_upsample": options.chroma_upsample,
        "reference_saturation": options.saturation,
        "max_reference_keys": options.max_reference_keys,
        "device": device.type,
    }


def _last_named(references: Sequence[ReferenceFile], rule: SceneRule) -> tuple[int, str]:
    """(the highest frame number that anybody named, by what); -1 where none was."""
    named = [(file.frame, f"the reference {file}") for file in references if file.frame is not None]
    return max([*named, (rule.last_named, "--scene-cut")], key=lambda entry: entry[0])


def _beyond(film: str, count: int, named: tuple[int, str]) -> UserError:
    return UserError(
        f"{named[1]} names frame {named[0]}, but {film} has {count} frames, 0 to {count - 1}"
    )


def _one_frame(film: str) -> UserError:
    return UserError(
        f"{film} has one frame: there is no motion to carry colours along; --mode exemplar colours it from the "
        "references alone"
    )


def _check_source(source: FrameSource, options: ColorizeOptions, named: tuple[int, str]) -> None:
    """What can be known of the frames without decoding them."""
    files = getattr(source, "files", None)
    facts = source.facts
    for path in files or ():
        height, width, _ = image_shape(path)
        if (height, width) != (facts.height, facts.width):
            raise UserError(
                f"{path} is {width}x{height}, the first frame ({files[0].name}) is "
                f"{facts.width}x{facts.height}; all frames of a film have one size"
            )
    count = facts.frames
    if count is None or source.path is None and files is None:
        return
    # What a container says of its length is an estimate; counting packets is quick and exact.
    if source.path is not None and (count <= 2 or named[0] >= 0.9 * count):
        count = _packets(source)
    if count == 1 and options.mode != "exemplar":
        raise _one_frame(facts.name)
    if named[0] >= count:
        raise _beyond(facts.name, count, named)


def _packets(source: FrameSource) -> int:
    import av

    with av.open(str(source.path), metadata_errors="replace") as container:
        stream = container.streams.best("video")
        return sum(1 for packet in container.demux(stream) if packet.size and packet.pts is not None)


def _check_head(opened: OpenedSystem, options: ColorizeOptions, size: WorkingSize) -> None:
    if options.exemplar_head != "colornet":
        return
    if options.mode != "exemplar":
        raise UserError(f"--exemplar-head colornet belongs to --mode exemplar, not to {options.mode}")
    if getattr(opened.system.exemplar, "colornet", None) is None:
        raise UserError(
            "--exemplar-head colornet needs SwinTExCo's colornet.pth (--swintexco_ckpt DIR); the head warp needs none"
        )


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
