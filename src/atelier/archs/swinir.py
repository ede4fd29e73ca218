"""SwinIR: image restoration using Swin Transformer (Liang et al., ICCV Workshops 2021).

Parameter names, constructor and results are the official ones; the inside is arranged for speed: tokens as rows in
channels_last memory, one permutation between blocks, masks and biases made once (``swinir_windows``,
``swinir_attention``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs.checks import checked
from atelier.archs.swinir_block import RSTB, from_rows, residual_conv, to_rows
from atelier.archs.swinir_elsa_options import ElsaOptions
from atelier.archs.swinir_head import HEADS, head_modules
from atelier.archs.swinir_options import MARKER, SwinIROptions
from atelier.archs.swinir_windows import Layouts
from atelier.errors import UserError

_RGB_MEAN = (0.4488, 0.4371, 0.4040)


class PatchEmbed(nn.Module):
    """Holds the LayerNorm that the official network keeps under ``patch_embed.norm``."""

    def __init__(self, dim: int, norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()

    def forward(self, rows: Tensor) -> Tensor:
        """[R, C] to [R, C]."""
        return self.norm(rows)  # type: ignore[no-any-return]


class SwinIR(nn.Module):
    """The official family: classical, lightweight and real-world super-resolution, denoising, JPEG.

    ``attention="elsa"`` replaces window attention by :class:`~atelier.archs.swinir_elsa.ElsaAttention`.
    Arguments are those of :class:`SwinIROptions`, checked there; a wrong one raises :class:`UserError`.
    """

    mean: Tensor

    def __init__(
        self,
        img_size: int = 64,
        patch_size: int = 1,
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (6, 6, 6, 6),
        num_heads: Sequence[int] = (6, 6, 6, 6),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        ape: bool = False,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        upscale: int | None = None,
        img_range: float = 1.0,
        upsampler: str | None = "",
        resi_connection: str = "1conv",
        attention: str = "window",
        elsa: ElsaOptions | Mapping[str, Any] | None = None,
        extra_residual: bool = False,
    ) -> None:
        super().__init__()
        self.options = options = checked(
            SwinIROptions,
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            embed_dim=embed_dim,
            depths=tuple(depths),
            num_heads=tuple(num_heads),
            window_size=window_size,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            drop_rate=drop_rate,
            attn_drop_rate=attn_drop_rate,
            drop_path_rate=drop_path_rate,
            ape=ape,
            patch_norm=patch_norm,
            use_checkpoint=use_checkpoint,
            img_range=img_range,
            upsampler=upsampler,
            resi_connection=resi_connection,
            attention=attention,
            elsa=elsa,
            extra_residual=extra_residual,
            **({} if upscale is None else {"upscale": upscale}),
        )
        self.upscale, self.img_range, self.window_size = (
            options.upscale,
            options.img_range,
            options.window_size,
        )
        self._layouts = Layouts(options.window_size)
        # One entry a channel is right for any number of channels: only RGB has a mean.
        mean = torch.tensor(_RGB_MEAN) if in_chans == 3 else torch.zeros(1)
        self.register_buffer("mean", mean.view(1, -1, 1, 1), persistent=False)
        if extra_residual:
            self.register_buffer(MARKER, torch.ones(()))
        if ape:
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, img_size**2, embed_dim))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.conv_first = nn.Conv2d(in_chans, embed_dim, 3, padding=1)
        self.patch_embed = PatchEmbed(embed_dim, patch_norm)
        self.pos_drop = nn.Dropout(drop_rate)
        total = sum(options.depths)
        rates = [drop_path_rate * i / max(1, total - 1) for i in range(total)]
        self.layers = nn.ModuleList()
        for group, depth in enumerate(options.depths):
            self.layers.append(RSTB(options, group, rates[:depth]))
            rates = rates[depth:]
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = residual_conv(embed_dim, options.resi_connection)
        for name, module in head_modules(options).items():
            self.add_module(name, module)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_chans, H, W] in [0, 1], any H and W from 1, to [B, in_chans, H*upscale, W*upscale], not clamped."""
        height, width = x.shape[-2:]
        x = (pad_to_window(x, self.window_size) - self.mean) * self.img_range
        y = self._body(x.contiguous(memory_format=torch.channels_last))
        y = HEADS[self.options.upsampler](self, y, x)
        y = y / self.img_range + self.mean
        return crop_to(y, height * self.upscale, width * self.upscale).contiguous()

    def _body(self, x: Tensor) -> Tensor:
        """Normalised, padded input to the features the head works on, [B, C, H, W]."""
        shallow = self.conv_first(x)
        rows = self.patch_embed(to_rows(shallow))
        if self.options.ape:
            rows = self._add_positions(rows, shallow)
        deep = from_rows(self.pos_drop(rows), shallow)
        layout = self._layouts.of(x.shape[0], x.shape[2], x.shape[3], x.device)
        for layer in self.layers:
            deep = layer(deep, layout)
        deep = from_rows(self.norm(to_rows(deep)), shallow)
        return self.conv_after_body(deep) + shallow  # type: ignore[no-any-return]

    def _add_positions(self, rows: Tensor, like: Tensor) -> Tensor:
        side = self.options.img_size
        if like.shape[2:] != (side, side):
            raise UserError(
                f"this SwinIR was made with absolute positions (ape) for {side}x{side} input; "
                f"given {like.shape[2]}x{like.shape[3]} after padding"
            )
        return (rows.view(like.shape[0], -1, rows.shape[1]) + self.absolute_pos_embed).view_as(rows)


def pad_to_window(x: Tensor, window: int, least: int = 1) -> Tensor:
    """Reflects ``x`` [B, C, H, W] at the right and bottom until both sides are multiples of ``window``.

    Where the missing part is as long as the side or longer, the reflection goes back and forth; a side of one pixel
    is repeated. No side is shorter than ``least``, a multiple itself, afterwards.
    """
    sides: list[Any] = [(side + window - 1) // window * window for side in x.shape[2:]]
    if least > window:
        sides = [torch.sym_max(side, least) for side in sides]
    height, width = sides
    down, across = height - x.shape[2], width - x.shape[3]
    if not is_open(x):
        if down == 0 and across == 0:
            return x
        if down < x.shape[2] and across < x.shape[3]:
            return F.pad(x, (0, across, 0, down), "reflect")
    for axis, side in ((2, height), (3, width)):
        last = x.shape[axis] - 1
        place = torch.arange(side, device=x.device).remainder(torch.sym_max(1, 2 * last))
        x = x.index_select(axis, last - (place - last).abs())
    return x


def crop_to(y: Tensor, height: int, width: int) -> Tensor:
    """The upper left [B, C, height, width] of ``y``."""
    if is_open(y):
        # A slice would make the exporter ask whether anything is cut off.
        y = y.index_select(2, torch.arange(height, device=y.device))
        return y.index_select(3, torch.arange(width, device=y.device))
    return y[..., :height, :width]


def is_open(x: Tensor) -> bool:
    """Whether an exporter traces ``x`` [B, C, H, W] with H or W left open: only what holds for any size will do."""
    return any(isinstance(side, torch.SymInt) for side in x.shape[2:])


def _initialise(module: nn.Module) -> None:
    """Linear: normal of deviation 0.02 cut at +-2, bias 0. The rest keeps PyTorch's own start (as the original)."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
