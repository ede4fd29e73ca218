"""A film through the colorizer: streamed, cut into scenes, resumed after a stop, and what became of it."""

from __future__ import annotations

import io
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from atelier.colorize.ahead import Ahead, Busy, Look, check_source, last_named
from atelier.colorize.bank import ReferenceBank
from atelier.colorize.coloured import ColorizeOptions, ColouredFilm, Scene
from atelier.colorize.opening import OpenedSystem
from atelier.colorize.reference_files import ReferenceFile
from atelier.colorize.scenes import RESEMBLANCE, SceneRule, resemblance, scene_rule, thumbnail
from atelier.colorize.state import SequenceState
from atelier.colorize.working import WorkingSize, enlarge, join
from atelier.errors import UserError
from atelier.files import sha256_of
from atelier.images.video import FrameSource, VideoFrame, open_video
from atelier.images.video_encode import Encoding
from atelier.images.video_film import FilmReport, transform_film
from atelier.images.video_targets import open_target

if TYPE_CHECKING:
    from numpy.typing import NDArray


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


def colorize_film(
    opened: OpenedSystem,
    film: str | FrameSource,
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
        film: a film's name, a folder of frames, a pattern, ``-``; or an opened source, which is closed at the end.
        target_name: a film, ``DIR/``, a pattern, or ``-``.
        tell: takes lines for people as things happen: sizes, scenes, warnings.
        quiet: show no progress.

    Raises:
        UserError: bad input or output, told before anything is written wherever it can be known then.
    """
    device = torch.device(device)
    rule = scene_rule(options.scene_cut)
    if isinstance(film, str):
        source = open_video(film, rate=options.rate, allow_damaged=options.allow_damaged)
    else:
        source = film
    bank = None
    try:
        facts = source.facts
        size = WorkingSize.of(facts.width, facts.height, options.short_side)
        named = last_named(references, rule)
        check_source(source, options, named)
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
        for note in (*([facts.caution] if facts.caution else ()), *bank.notes):
            tell(note)
        tell(
            f"{facts.name}: {facts.width}x{facts.height}"
            + (f", about {facts.frames} frame{'s' * (facts.frames > 1)}" if facts.frames else "")
            + f"; colours are found at {size.content[1]}x{size.content[0]}"
        )
        state = _State() if target.state is None else _State.load(target.state, device)
        busy = Busy()
        colourist = _Colourist(opened, bank, size, rule, options, state, busy, tell)
        before = (state.sequence.lightness, state.small) if target.frames_done else (None, None)
        ahead = Ahead(source, opened.system.flow, size, rule, options, device, busy, named, before)
        try:
            streamed = transform_film(
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
        report = colourist.report(streamed, source.facts.name, target_name)
        report.notes = [*bank.notes, *report.notes]
        damaged = getattr(source, "damaged", ())
        if damaged:
            report.notes.append(f"{len(damaged)} places of the source are damaged; what decodes was coloured")
        return report
    finally:
        source.close()
        if bank is not None:
            bank.close()


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
        busy: Busy,
        tell: Callable[[str], None],
    ) -> None:
        self._opened, self._bank, self._size, self._rule = opened, bank, size, rule
        self._options, self._state, self._busy, self._tell = options, state, busy, tell
        self._names = [str(file) for file in bank.files]

    @torch.no_grad()
    def colour(self, frame: VideoFrame, look: Look, state: _State) -> tuple[NDArray[Any], _State]:
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

    def _begin_scene(self, index: int, look: Look, state: _State) -> None:
        choice = self._bank.choose(look.work, index)
        state.kept = choice.kept
        likeness = {self._names[r]: value for r, value in enumerate(choice.resemblance)}
        scene = Scene(
            index,
            0,
            [self._names[r] for r in choice.kept],
            [self._names[r] for r in choice.left_out],
            likeness,
        )
        state.scenes.append(scene)
        self._tell(f"scene {len(state.scenes)} {scene}")

    def _compare(self, index: int, pinned: Tensor, look: Look, state: _State) -> None:
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


def _check_head(opened: OpenedSystem, options: ColorizeOptions, size: WorkingSize) -> None:
    if options.exemplar_head != "colornet":
        return
    if options.mode != "exemplar":
        raise UserError(f"--exemplar-head colornet belongs to --mode exemplar, not to {options.mode}")
    if getattr(opened.system.exemplar, "colornet", None) is None:
        raise UserError(
            "--exemplar-head colornet needs SwinTExCo's colornet.pth (--swintexco_ckpt DIR); the head warp needs none"
        )
