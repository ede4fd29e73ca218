"""How films are encoded: codec, quality, pixel format; one encoder without B-frames."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from atelier.errors import UserError, did_you_mean
from atelier.images.video_colour import LIMITED, Colour, FromRGB

if TYPE_CHECKING:
    from av import Packet
    from av.video.codeccontext import VideoCodecContext
    from numpy.typing import NDArray

    from atelier.images.video import VideoFacts

CRF = {"libx264": 18.0, "libx265": 20.0, "libvpx-vp9": 24.0, "libsvtav1": 28.0}
"""Default quality of the codecs that have a constant rate factor; smaller is better."""

_CRF_RANGE = {"libx264": 51, "libx265": 51, "libvpx-vp9": 63, "libsvtav1": 63}

_QUANTIZED = (
    "mpeg4",
    "mjpeg",
    "mpeg1video",
    "mpeg2video",
    "msmpeg4",
    "msmpeg4v2",
    "wmv1",
    "wmv2",
    "h261",
    "h263",
    "h263p",
    "flv",
)
"""Would take FFmpeg's 200 kbit/s whatever the size: they get a constant quantizer, which ``crf`` is of them."""

_QUANTIZER, _QUANTIZER_RANGE = 2.0, (2, 31)

_PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
)

_ALIASES = {
    "h264": "libx264",
    "avc": "libx264",
    "hevc": "libx265",
    "h265": "libx265",
    "vp9": "libvpx-vp9",
    "av1": "libsvtav1",
}

_EVEN = ("libx264", "libx265")
"""Refuse odd sides with chroma of half size. Asked beforehand: libx265 damages memory after such a refusal."""

_SMALLEST_X265 = 64
"""Smaller pictures make libx265 (as in PyAV 18.1) write beyond its memory."""

_THREADS = 4
"""Fixed, since encoders write other bytes with another number of threads; the same film anywhere, and after a stop."""


@dataclass(frozen=True)
class Encoding:
    """What the user chooses of a film's encoding.

    Attributes:
        codec: an encoder of FFmpeg, or h264, hevc, vp9, av1 for the usual ones.
        crf: constant rate factor, or the constant quantizer of older codecs; None: the codec's default, see
            :data:`CRF` (the quantizer's is 2).
        preset: speed against size, of libx264 and libx265 (names) and libsvtav1 (0 to 13).
        pix_fmt: FFmpeg's pixel format, or "auto": 4:2:0 with the depth of the source, 4:4:4 where the codec
            refuses 4:2:0 because a side is odd.
    """

    codec: str = "libx264"
    crf: float | None = None
    preset: str | None = None
    pix_fmt: str = "auto"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for comparing with an earlier run."""
        return asdict(self)


@dataclass(frozen=True)
class Picture:
    """What every frame of an encoded film has in common.

    Attributes:
        width, height: pixels.
        time_base: of the timestamps.
        rate: average frames a second, for the stream's header.
        colour: settled; written as tags.
        sample_aspect: width over height of one pixel.
        bits: of the source's components; "auto" keeps them where the codec can.
    """

    width: int
    height: int
    time_base: Fraction
    rate: Fraction
    colour: Colour
    sample_aspect: Fraction = Fraction(1)
    bits: int = 8


@dataclass(frozen=True)
class Plan:
    """An encoding that was tried: the encoder opens with it."""

    codec: str
    pixel_format: str
    options: tuple[tuple[str, str], ...]
    picture: Picture
    crf: str | None = None
    """As settled; None for codecs that have none."""


def nominal_rate(facts: VideoFacts) -> Fraction:
    """Frames a second of a film as stream headers can say it; 25 where the source says nothing sensible."""
    rate = facts.rate or Fraction(25)
    return rate.limit_denominator(1001) if 1 <= rate <= 1000 else Fraction(25)


def plan_encoding(encoding: Encoding, picture: Picture) -> Plan:
    """Decide what is left open and try it.

    Raises:
        UserError: no such encoder (the usual ones there are, are listed), an option that it does not have, or a size or
            pixel format that it refuses.
    """
    name = find_encoder(encoding.codec)
    crf = _crf(name, encoding.crf)
    options = _options(name, encoding, crf)
    tried: dict[str, str] = {}
    for layout in _layouts(name, encoding.pix_fmt, picture.bits):
        plan = Plan(name, layout, options, picture, crf)
        reason = _refusal(plan)
        if reason is None:
            return plan
        tried[layout] = reason
    layouts = ", ".join(list(tried)[:6])
    raise UserError(
        f"{name} does not take pictures of {picture.width}x{picture.height} as {layouts}: "
        f"{next(iter(tried.values()))}; choose another --codec or --pix-fmt"
    )


def find_encoder(name: str) -> str:
    """FFmpeg's name of the video encoder meant; a :class:`UserError` lists the usual ones that there are."""
    import av

    wanted = _ALIASES.get(name.lower(), name)
    try:
        found = av.Codec(wanted, "w")
    except (ValueError, av.FFmpegError):
        found = None
    if found is not None and found.type == "video":
        return wanted
    there = _encoders()
    usual = [each for each in (*CRF, "ffv1", "prores_ks", "mpeg4", "mjpeg") if each in there]
    if found is not None:
        raise UserError(f"{name} encodes {found.type}, not video; video: {', '.join(usual)}")
    raise UserError(
        f"no encoder '{name}' in this FFmpeg{did_you_mean(wanted, usual)}; the usual ones here: {', '.join(usual)} "
        f"(all {len(there)}: python -m av --codecs)"
    )


def _encoders() -> list[str]:
    import av

    names = []
    for name in sorted(av.codecs_available):
        try:
            if av.Codec(name, "w").type == "video":
                names.append(name)
        except (ValueError, av.FFmpegError):
            continue
    return names


def _crf(name: str, asked: float | None) -> str | None:
    """The quality to encode with; None for codecs that have no such number."""
    if name not in CRF and name not in _QUANTIZED:
        if asked is not None:
            raise UserError(f"{name} has no --crf; codecs that have: {', '.join((*CRF, *_QUANTIZED))}")
        return None
    least, most = _QUANTIZER_RANGE if name in _QUANTIZED else (0, _CRF_RANGE[name])
    crf = CRF.get(name, _QUANTIZER) if asked is None else asked
    if not least <= crf <= most:
        raise UserError(f"--crf {crf:g}: {name} takes {least} to {most}")
    if name in _QUANTIZED and crf != int(crf):
        raise UserError(f"--crf {crf:g}: {name} takes whole numbers")
    return f"{crf:g}"


def _options(name: str, encoding: Encoding, crf: str | None) -> tuple[tuple[str, str], ...]:
    options: dict[str, str] = {}
    if crf is not None and name in CRF:
        options["crf"] = crf
    elif crf is not None:
        # Not FFmpeg's flag for it: that takes the number from each frame, which PyAV cannot set.
        options |= {"qmin": crf, "qmax": crf}
    if encoding.preset is not None:
        if name in ("libx264", "libx265"):
            if encoding.preset not in _PRESETS:
                raise UserError(
                    f"unknown --preset '{encoding.preset}' of {name}; allowed: {', '.join(_PRESETS)}"
                )
        elif name == "libsvtav1":
            if not (encoding.preset.isdigit() and int(encoding.preset) <= 13):
                raise UserError(f"--preset {encoding.preset}: {name} takes 0 (slow) to 13 (fast)")
        else:
            raise UserError(f"{name} has no --preset; codecs that have: libx264, libx265, libsvtav1")
        options["preset"] = encoding.preset
    if name == "libx265":
        options["x265-params"] = f"bframes=0:frame-threads=2:pools={_THREADS}:log-level=error"
    return tuple(sorted(options.items()))


def _layouts(name: str, asked: str, bits: int) -> list[str]:
    """Pixel formats to try, best first."""
    import av

    known = [each.name for each in av.Codec(name, "w").video_formats or ()]
    if asked != "auto":
        try:
            av.VideoFormat(asked, 16, 16)
        except ValueError as error:
            raise UserError(
                f"unknown --pix-fmt '{asked}'{did_you_mean(asked, known)}; {name} takes {', '.join(known)}"
            ) from error
        if known and asked not in known:
            raise UserError(f"{name} does not take --pix-fmt {asked}; allowed: {', '.join(known)}")
        return [asked]
    # The depth of the source, then the next deeper ones, then those that lose bits, the deepest first.
    depths = sorted({8, 10, 12, 16}, key=lambda depth: (depth < bits, depth if depth >= bits else -depth))
    wanted = []
    for depth in depths:
        tail = "" if depth == 8 else f"{depth}le"
        for sampling in ("420", "444", "422"):
            wanted += [f"yuv{sampling}p{tail}", *([f"yuvj{sampling}p"] if depth == 8 else [])]
    usable = [each for each in wanted if not known or each in known]
    return usable + [
        each for each in known if each not in usable and not each.startswith(("yuva", "gray", "mono"))
    ]


def _refusal(plan: Plan) -> str | None:
    """Why the encoder does not open with this plan; None where it does."""
    import av
    from av import logging

    picture = plan.picture
    if plan.codec == "libx265" and min(picture.width, picture.height) < _SMALLEST_X265:
        return f"a side below {_SMALLEST_X265} pixels"
    halved = ("420" in plan.pixel_format, "420" in plan.pixel_format or "422" in plan.pixel_format)
    if plan.codec in _EVEN and ((halved[0] and picture.height % 2) or (halved[1] and picture.width % 2)):
        return "an odd side with chroma of half size"
    before = logging.get_level()
    logging.set_level(logging.PANIC)
    try:
        configure(av.CodecContext.create(plan.codec, "w"), plan).open()
    except (av.FFmpegError, ValueError, OverflowError) as error:
        return str(getattr(error, "strerror", None) or error)
    finally:
        logging.set_level(before)
    return None


def configure(context: Any, plan: Plan) -> VideoCodecContext:
    """Give a fresh encoder everything but its first frame, at which it opens."""
    from av.codec.context import Flags

    picture = plan.picture
    context.width, context.height = picture.width, picture.height
    context.pix_fmt = plan.pixel_format
    # Frames are numbered for the encoder, which writes its clock into the stream's header as a frame rate.
    context.time_base = 1 / picture.rate
    context.framerate = picture.rate
    context.sample_aspect_ratio = picture.sample_aspect
    colour = encoded_colour(plan)
    context.colorspace, context.color_range = colour.matrix, colour.range
    context.color_primaries, context.color_trc = colour.primaries, colour.transfer
    context.thread_count = _THREADS
    # The order of packets is the order of pictures: timestamps need no reordering, parts can be joined.
    context.max_b_frames = 0
    context.flags |= Flags.global_header
    context.options = dict(plan.options)
    found: VideoCodecContext = context
    return found


def encoded_colour(plan: Plan) -> Colour:
    """The colour description written with a plan: formats called yuvj are of full range, RGB has no matrix."""
    import av

    colour = plan.picture.colour
    if av.VideoFormat(plan.pixel_format, 16, 16).is_rgb:
        return Colour(0, 2, colour.primaries, colour.transfer)
    if plan.pixel_format.startswith("yuvj"):
        return Colour(colour.matrix, 2, colour.primaries, colour.transfer)
    return Colour(colour.matrix, colour.range or LIMITED, colour.primaries, colour.transfer)


class Encoder:
    """Pictures in, packets out, one packet a picture and in the same order, with the timestamps given.

    Args:
        context: a fresh codec context of the plan's codec, for example that of a container's new stream.
    """

    def __init__(self, plan: Plan, context: Any) -> None:
        self.plan = plan
        self._context = configure(context, plan)
        colour = encoded_colour(plan)
        self._convert = FromRGB(plan.pixel_format, colour if colour.matrix else plan.picture.colour)
        self._waiting: dict[int, tuple[int, int]] = {}
        self._count = 0

    def encode(self, pixels: NDArray[Any], pts: int, duration: int) -> list[Packet[Any]]:
        """Encode one picture ``H×W×3``; gives the packets that are ready.

        Raises:
            UserError: the picture has another size than planned, or the encoder failed.
        """
        picture = self.plan.picture
        if pixels.shape != (picture.height, picture.width, 3):
            raise UserError(f"a picture of {picture.width}x{picture.height} was expected, not {pixels.shape}")
        frame = self._convert(pixels)
        frame.pts, frame.time_base = self._count, 1 / picture.rate
        self._waiting[self._count] = pts, duration
        self._count += 1
        return self._packets(frame)

    def finish(self) -> list[Packet[Any]]:
        """The packets that were held back."""
        return self._packets(None)

    def _packets(self, frame: Any) -> list[Packet[Any]]:
        import av

        try:
            packets = self._context.encode(frame)
        except av.FFmpegError as error:
            raise UserError(f"{self.plan.codec} failed: {error.strerror or error}") from error
        for packet in packets:
            if packet.pts not in self._waiting:
                raise UserError(f"{self.plan.codec} does not keep timestamps; choose another --codec")
            packet.time_base = self.plan.picture.time_base
            packet.pts, packet.duration = self._waiting.pop(packet.pts)
            packet.dts = packet.pts
        return list(packets)
