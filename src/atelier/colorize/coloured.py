"""How a film shall be coloured, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from atelier.colorize.bank import PerScene
    from atelier.colorize.working import ChromaUpsample, WorkingSize
    from atelier.images.video_film import FilmReport

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
        per_scene: for each scene the references that resemble its first frame, the one that does so most, or all.
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
    per_scene: PerScene = "alike"
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


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
