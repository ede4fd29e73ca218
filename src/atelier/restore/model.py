"""A loaded model and what it makes of any picture: grey, colour, alpha, 8 and 16 bit, float."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from atelier.errors import RunStopped, UserError
from atelier.images import from_tensor, imresize, rgb_to_ycbcr, to_tensor, ycbcr_to_rgb
from atelier.restore.canvas import CanvasT, PixelCanvas, TensorCanvas
from atelier.restore.tiling import OnTile, Precision, Tile, restore_onto

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from atelier.archs import LoadReport

Network = Callable[[Tensor], Tensor]

_DTYPES = ("uint8", "uint16", "float32")

_log = logging.getLogger(__name__)


class Facts(Protocol):
    """What restoring has to know of a network (``atelier.archs`` finds it in the weight file)."""

    @property
    def architecture(self) -> str:
        """Name of the architecture."""

    @property
    def scale(self) -> int:
        """Output size over input size."""

    @property
    def in_channels(self) -> int:
        """1, 3, ..."""

    @property
    def out_channels(self) -> int:
        """1, 3, ..."""

    @property
    def size_multiple(self) -> int:
        """Window size; 1 for plain convolutions."""

    @property
    def receptive_radius(self) -> int | None:
        """In lq pixels; None: not bounded."""

    @property
    def supports_half(self) -> bool:
        """Whether float16 is safe."""

    @property
    def supports_bfloat16(self) -> bool:
        """Whether bfloat16 is safe."""


class RestorationModel:
    """A network with its facts, ready to restore pictures.

    Args:
        net: the network; it is moved to ``device`` and set to evaluation mode.
        facts: architecture, scale, channels, window and receptive radius.
        device: "cpu", "cuda", "cuda:1", "mps", "auto" (a GPU where there is one) or None (where the network is).
        precision: "fp32", "bf16", "fp16", or "auto": fp16 for 8-bit pictures through convolutional networks on a
            GPU (its error is far below one step of 8 bits), otherwise fp32.

    Raises:
        UserError: the device does not exist, or the precision is not safe for this architecture.
    """

    def __init__(
        self,
        net: nn.Module,
        facts: Facts,
        *,
        device: torch.device | str | None = None,
        precision: str = "fp32",
    ) -> None:
        check_precision(precision, facts)
        if device is None:
            self.device = next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
        else:
            self.device = find_device(device)
        self.net = net.to(self.device).eval()
        self.facts = facts
        self.precision = precision
        # Once memory ran out, the next picture starts with the tile that worked.
        self._forced_tile: int | None = None

    @property
    def architecture(self) -> str:
        """Name of the network's architecture, as in option files."""
        return self.facts.architecture

    @property
    def scale(self) -> int:
        """How many times wider and higher the network makes a picture."""
        return self.facts.scale

    @property
    def in_channels(self) -> int:
        """Colour channels the network takes: 1 (grey) or 3 (RGB)."""
        return self.facts.in_channels

    def __repr__(self) -> str:
        return f"RestorationModel({self.architecture}, scale={self.scale}, in_channels={self.in_channels})"

    def restore(
        self,
        image: NDArray[Any],
        *,
        tile: Tile = "auto",
        overlap: int | None = None,
        outscale: float | None = None,
        alpha_upsampler: str = "network",
        pre_pad: int = 0,
        on_tile: OnTile | None = None,
    ) -> NDArray[Any]:
        """Restore one picture.

        Channels: a grey picture goes through an RGB network three times the same and comes back as the mean of the
        three, so it stays grey. A colour picture goes through a grey network as its luma (BT.601); chroma is
        resized bicubically. Alpha goes through the network as a grey picture, or is resized bicubically; where
        the scale is 1, or alpha is the same everywhere, its values stay as they are.

        Args:
            image: H×W×C, RGB order, uint8, uint16 or float32 in [0, 1]; C is 1 (grey), 2 (grey and alpha),
                3 (RGB) or 4 (RGB and alpha).
            tile: see :func:`atelier.restore.restore_tensor`.
            overlap: likewise.
            outscale: final size relative to the input, ``int(W * outscale)`` by ``int(H * outscale)``, at least 1;
                the restored picture is resized (antialiased bicubic). None: the network's scale.
            alpha_upsampler: "network" or "bicubic".
            pre_pad: mirrored pixels added on the right and at the bottom before the network and cut off after it, in
                pixels of the picture; repeated edges where the picture is too small to mirror so much.
            on_tile: called as ``on_tile(done, total)``.

        Returns:
            The restored picture: same dtype and channels, clamped to [0, 1] before rounding.

        Raises:
            UserError: a picture or argument that does not fit.
            RunStopped: the network gave NaN or infinity in fp32, or memory ran out.
        """
        self.check(outscale=outscale, alpha_upsampler=alpha_upsampler)
        _check_image(image)
        lq = to_tensor(np.ascontiguousarray(image))[None]
        colours = 1 if lq.shape[1] < 3 else 3
        precision = self._precision(image.dtype)
        resized = outscale is not None and outscale != self.scale
        if lq.shape[1] == colours == self.in_channels and not resized:
            # Nothing is done with the values but rounding: tiles become pixels as they come.
            height, width = (side * self.scale for side in image.shape[:2])
            canvas = self._restored(
                lambda: PixelCanvas(height, width, image.dtype),
                _padded(lq, pre_pad),
                precision,
                tile,
                overlap,
                on_tile,
            )
            assert canvas.pixels is not None
            return canvas.pixels

        def network(part: Tensor) -> Tensor:
            whole = self._network(_padded(part, pre_pad), precision, tile, overlap, on_tile)
            return whole[..., : part.shape[-2] * self.scale, : part.shape[-1] * self.scale]

        restored = self._colour(lq[:, :colours], network)
        if lq.shape[1] > colours:
            alpha = self._alpha(lq[:, colours:], alpha_upsampler, network)
            restored = torch.cat([restored, alpha], dim=1)
        if outscale is not None and resized:
            size = (max(int(image.shape[0] * outscale), 1), max(int(image.shape[1] * outscale), 1))
            restored = imresize(restored, size=size)
        return from_tensor(restored[0], image.dtype)

    def check(self, *, outscale: float | None = None, alpha_upsampler: str = "network") -> None:
        """Raise :class:`UserError` for what would fail with every picture."""
        if outscale is not None and not 0 < outscale < float("inf"):
            raise UserError(f"outscale must be a positive number, not {outscale}")
        if alpha_upsampler not in ("network", "bicubic"):
            raise UserError(f"unknown alpha_upsampler '{alpha_upsampler}'; allowed: network, bicubic")
        if (self.facts.in_channels, self.facts.out_channels) not in ((1, 1), (3, 3)):
            raise UserError(
                f"{self.architecture} takes {self.facts.in_channels} channels and gives {self.facts.out_channels}; "
                "pictures can be restored with networks from grey to grey (1, 1) or from RGB to RGB (3, 3)"
            )

    def _precision(self, dtype: np.dtype[Any]) -> Precision:
        if self.precision != "auto":
            return cast(Precision, self.precision)
        safe = self.facts.receptive_radius is not None and self.facts.supports_half and dtype == np.uint8
        return "fp16" if safe and self.device.type == "cuda" else "fp32"

    def _colour(self, colour: Tensor, network: Network) -> Tensor:
        if colour.shape[1] == self.in_channels:
            return network(colour)
        if colour.shape[1] == 1:
            return self._grey(colour, network)
        ycbcr = rgb_to_ycbcr(colour)
        chroma = ycbcr[:, 1:]
        if self.scale > 1:
            chroma = imresize(chroma, scale=self.scale)
        return ycbcr_to_rgb(torch.cat([network(ycbcr[:, :1].contiguous()), chroma], dim=1))

    def _grey(self, grey: Tensor, network: Network) -> Tensor:
        restored = network(grey.expand(-1, self.in_channels, -1, -1).contiguous())
        return restored.mean(dim=1, keepdim=True)

    def _alpha(self, alpha: Tensor, upsampler: str, network: Network) -> Tensor:
        if self.scale == 1:
            return alpha
        height, width = alpha.shape[-2:]
        if bool((alpha == alpha[0, 0, 0, 0]).all()):
            return alpha[..., :1, :1].expand(-1, -1, height * self.scale, width * self.scale)
        if upsampler == "bicubic":
            return imresize(alpha, scale=self.scale)
        return self._grey(alpha, network)

    def _network(
        self, lq: Tensor, precision: Precision, tile: Tile, overlap: int | None, on_tile: OnTile | None
    ) -> Tensor:
        height, width = (side * self.scale for side in lq.shape[-2:])
        canvas = self._restored(
            lambda: TensorCanvas(lq.shape[0], height, width, lq.device), lq, precision, tile, overlap, on_tile
        )
        assert canvas.result is not None
        return canvas.result

    def _restored(
        self,
        new_canvas: Callable[[], CanvasT],
        lq: Tensor,
        precision: Precision,
        tile: Tile,
        overlap: int | None,
        on_tile: OnTile | None,
    ) -> CanvasT:
        """The network on the device, finite; half precision that overflows is repeated in fp32."""
        canvas, forced = restore_onto(
            new_canvas,
            self.net,
            lq,
            scale=self.scale,
            tile=self._tile(tile),
            overlap=overlap,
            size_multiple=self.facts.size_multiple,
            receptive_radius=self.facts.receptive_radius,
            device=self.device,
            precision=precision,
            on_tile=on_tile,
        )
        self._forced_tile = forced or self._forced_tile
        wrong, values = canvas.wrong_values()
        if not wrong:
            return canvas
        if precision != "fp32":
            _log.warning("%s overflows in %s; the picture is repeated in fp32", self.architecture, precision)
            del canvas
            return self._restored(new_canvas, lq, "fp32", tile, overlap, on_tile)
        raise RunStopped(
            f"{self.architecture} gave NaN or infinity for {wrong} of {values} values in fp32; "
            "its weights are damaged or do not belong to this architecture"
        )

    def _tile(self, asked: Tile) -> Tile:
        if self._forced_tile is None or (isinstance(asked, int) and 0 < asked < self._forced_tile):
            return asked
        return self._forced_tile


def _padded(lq: Tensor, pixels: int) -> Tensor:
    """``lq`` [N, C, H, W] continued to the right and below."""
    if not pixels:
        return lq
    mode = "reflect" if pixels < min(lq.shape[-2:]) else "replicate"
    return functional.pad(lq, (0, pixels, 0, pixels), mode=mode)


def _check_image(image: NDArray[Any]) -> None:
    if image.ndim != 3 or image.shape[2] not in (1, 2, 3, 4) or image.size == 0:
        raise UserError(f"a picture is H×W×C with C of 1, 2, 3 or 4 and not empty, not {image.shape}")
    if image.dtype.name not in _DTYPES:
        raise UserError(f"a picture is {', '.join(_DTYPES)}, not {image.dtype}")
    if image.dtype == np.float32:
        largest = float(np.abs(image).max())
        if not np.isfinite(largest):
            raise UserError("the picture holds NaN or infinity")
        if largest > 2:
            raise UserError(f"float pictures are in [0, 1]; this one reaches {largest:.6g}")


def check_precision(precision: str, facts: Facts, *, bf16: bool = True) -> None:
    """Refuse what does not exist, and what would give black pictures (SwinIR issues 103 and 180).

    ``bf16`` says whether the caller has bf16 to offer instead of fp16.
    """
    if precision not in ("auto", "fp32", "bf16", "fp16"):
        raise UserError(f"unknown precision '{precision}'; allowed: auto, fp32, bf16, fp16")
    if precision == "fp16" and not facts.supports_half:
        other = "bf16 or fp32" if bf16 and facts.supports_bfloat16 else "fp32"
        raise UserError(
            f"fp16 is not safe for {facts.architecture}: its activations grow beyond 65504, the largest fp16 "
            f"number, and pictures turn black; use {other}"
        )
    if precision == "bf16" and not facts.supports_bfloat16:
        raise UserError(f"bf16 is not safe for {facts.architecture}; use fp32")


def find_device(name: torch.device | str) -> torch.device:
    """The device of that name, or a :class:`UserError` where this machine has none; "auto" prefers a GPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device '{name}'; allowed: auto, cpu, cuda, cuda:N, mps") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            found = f"it has {count}" if count else "torch finds no GPU on this machine"
            raise UserError(f"device '{name}' was asked for, but {found}; use --device cpu or leave it out")
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"device '{name}' was asked for, but this machine has none; use --device cpu")
    elif device.type not in ("cpu", "mps"):
        raise UserError(f"unknown device '{name}'; allowed: auto, cpu, cuda, cuda:N, mps")
    return device


@overload
def load_model(
    path: Path | str,
    *,
    device: torch.device | str | None = None,
    param_key: str | None = None,
    precision: str = "fp32",
    blend_with: tuple[Path | str, float] | None = None,
    report: Literal[False] = False,
) -> RestorationModel: ...


@overload
def load_model(
    path: Path | str,
    *,
    device: torch.device | str | None = None,
    param_key: str | None = None,
    precision: str = "fp32",
    blend_with: tuple[Path | str, float] | None = None,
    report: Literal[True],
) -> tuple[RestorationModel, LoadReport]: ...


def load_model(
    path: Path | str,
    *,
    device: torch.device | str | None = None,
    param_key: str | None = None,
    precision: str = "fp32",
    blend_with: tuple[Path | str, float] | None = None,
    report: bool = False,
) -> RestorationModel | tuple[RestorationModel, LoadReport]:
    """Load a weight file of any known architecture; hyper-parameters are found from keys and shapes.

    Models that ``atelier export`` wrote (``.onnx``, ``.xml``, ``.param``, ``.pt2``) are opened in their own runtime;
    they have one precision ("fp32" and "auto" mean that one), nothing to mix and no report.

    Args:
        path: ``.pth`` or ``.safetensors``, or an exported model.
        device: see :class:`RestorationModel`; None takes a GPU where there is one.
        param_key: which entry of the file to read; None: ``params_ema``, ``params``, ``state_dict``, bare.
        precision: see :class:`RestorationModel`.
        blend_with: another file of the same network, and the share of the first one in the mixture, see
            :func:`atelier.restore.blend.blend`; None: the network as it is.
        report: also return what was loaded, mismatched, missing and unexpected.

    Raises:
        UserError: an unreadable file, an unknown architecture, no such device.
    """
    from atelier.restore.exported import is_exported

    if is_exported(path):
        if report or param_key is not None or blend_with is not None:
            raise UserError(
                f"{path} is an exported model: param_key, -dn and a report of loading are for weight files"
            )
        return _exported(Path(path), device, precision)
    from atelier.archs import load_network

    chosen = find_device("auto" if device is None else device)
    loaded = load_network(Path(path), param_key=param_key)
    if blend_with is not None:
        from atelier.restore.blend import blend

        other, share = blend_with
        blend(loaded, load_network(Path(other), param_key=param_key), share)
    model = RestorationModel(loaded.net, loaded.facts, device=chosen, precision=precision)
    return (model, loaded.report) if report else model


def _exported(path: Path, device: torch.device | str | None, precision: str) -> RestorationModel:
    from atelier.restore.exported import open_exported

    if precision not in ("auto", "fp32"):
        raise UserError(
            f"--precision {precision}: the precision of {path} was chosen when it was exported; leave it out"
        )
    net = open_exported(path, device)
    if path.suffix.lower() == ".pt2" and net.facts.precision == "fp16" and net.session.device.type == "cpu":
        # Other runtimes compute such a file in float32 where the processor has no float16.
        _log.warning(
            "%s computes in float16, which is many times slower than float32 on most processors; for the CPU export "
            "the network in fp32, or to .onnx",
            path,
        )
    return RestorationModel(net, net.facts, device=net.session.device)
