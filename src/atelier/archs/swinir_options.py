"""Options of SwinIR (Liang et al., ICCV Workshops 2021), with the names of the official constructor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from atelier.archs.network_options import NetworkOptions, Shapes
from atelier.archs.swinir_elsa_options import ElsaOptions, query_width, spelt_out
from atelier.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from atelier.archs.swinir import SwinIR

MARKER = "extra_residual"
"""The buffer that marks a network with the option of this name; its value means nothing."""

Upsampler = Literal["pixelshuffle", "pixelshuffledirect", "nearest+conv", ""]


class SwinIROptions(NetworkOptions):
    """The whole official family. ``img_size`` only sets the size of the ``attn_mask`` constants in a written file.

    ``attention: elsa`` with the nested ``elsa`` replaces window attention (``swinir_elsa_options``); the short forms
    ``elsa: true``, ``use_elsa``, ``elsa_kernel_size``, ``elsa_lam`` and ``elsa_gamma`` are read as well.

    ``extra_residual`` is the student V2 of swinir-knowledge-distillation: a layer then gives about 2x + f(x). Its own
    files there have the names of the plain network; ours hold a marker, so that no other program takes them for one.

    Without an upsampler (``''`` or null) the network predicts a residual at input size and ``upscale`` must be 1.
    """

    scale_key: ClassVar[str | None] = "upscale"
    # Activations grow past float16's 65504: black pictures (SwinIR issues 103 and 180).
    supports_half: ClassVar[bool] = False
    few_stages: ClassVar[bool] = True
    not_in_shapes: ClassVar[frozenset[str]] = frozenset(
        {
            "img_size",
            "img_range",
            "qk_scale",
            "drop_rate",
            "attn_drop_rate",
            "drop_path_rate",
            "use_checkpoint",
        }
    )

    type: Literal["SwinIR"] = "SwinIR"
    img_size: int = Field(64, ge=1)
    patch_size: Literal[1] = 1
    in_chans: int = Field(3, ge=1)
    embed_dim: int = Field(96, ge=1)
    depths: tuple[int, ...] = Field((6, 6, 6, 6), min_length=1)
    num_heads: tuple[int, ...] = Field((6, 6, 6, 6), min_length=1)
    window_size: int = Field(7, ge=2)
    mlp_ratio: float = Field(4.0, gt=0)
    qkv_bias: bool = True
    qk_scale: float | None = Field(None, gt=0)
    drop_rate: float = Field(0.0, ge=0, lt=1)
    attn_drop_rate: float = Field(0.0, ge=0, lt=1)
    drop_path_rate: float = Field(0.1, ge=0, lt=1)
    ape: bool = False
    patch_norm: bool = True
    use_checkpoint: bool = False
    upscale: int = Field(2, ge=1)
    img_range: float = Field(1.0, gt=0)
    upsampler: Upsampler = ""
    resi_connection: Literal["1conv", "3conv"] = "1conv"
    attention: Literal["window", "elsa"] = "window"
    elsa: ElsaOptions | None = None
    extra_residual: bool = Field(
        False,
        description="every Swin layer adds its own input once more at its end (student V2 of a distillation study)",
    )

    @field_validator("upsampler", mode="before")
    @classmethod
    def _null_is_none(cls, value: object) -> object:
        return "" if value is None else value

    @field_validator("depths", "num_heads")
    @classmethod
    def _all_positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 1:
            raise ValueError(f"every entry must be at least 1, given {list(value)}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _spell_out_elsa(cls, data: object) -> object:
        return spelt_out(data) if isinstance(data, dict) else data

    @model_validator(mode="before")
    @classmethod
    def _no_head_no_scale(cls, data: object) -> object:
        """The constructor's default ``upscale`` of 2 means nothing without an upsampler: left out, it is 1."""
        if isinstance(data, dict) and not data.get("upsampler") and "upscale" not in data:
            return {**data, "upscale": 1}
        return data

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(self.depths) != len(self.num_heads):
            raise ValueError(
                f"depths has {len(self.depths)} entries and num_heads {len(self.num_heads)}: one each per RSTB"
            )
        for heads in self.num_heads:
            if self.embed_dim % heads:
                raise ValueError(f"embed_dim {self.embed_dim} is not divisible by num_heads {heads}")
        if self.img_size <= self.window_size:
            raise ValueError(
                f"img_size {self.img_size} must be larger than window_size {self.window_size} (the original "
                f"silently shrinks its window there)"
            )
        if int(self.embed_dim * self.mlp_ratio) < 1:
            raise ValueError(
                f"mlp_ratio {self.mlp_ratio} leaves no hidden unit at embed_dim {self.embed_dim}"
            )
        if self.resi_connection == "3conv" and self.embed_dim < 4:
            raise ValueError(f"resi_connection 3conv needs embed_dim of at least 4, given {self.embed_dim}")
        self._check_scale()
        if self.elsa is not None:
            self._check_elsa(self.elsa)
        return self

    def _check_elsa(self, elsa: ElsaOptions) -> None:
        if isinstance(elsa.where, tuple):
            beyond = [index for index in elsa.where if not 0 <= index < len(self.depths)]
            if beyond:
                raise ValueError(
                    f"elsa.where names RSTB {beyond[0]}; depths has {len(self.depths)}, counted from 0"
                )
        if query_width(self.embed_dim, elsa.group_width) == 0:
            raise ValueError(f"ELSA needs embed_dim of at least 3, given {self.embed_dim}")
        if self.has_elsa_everywhere:
            if self.qk_scale is not None:
                raise ValueError(
                    "qk_scale belongs to window attention, which no block has; write elsa.qk_scale"
                )
            if self.attn_drop_rate:
                raise ValueError(
                    "attn_drop_rate belongs to window attention, which no block has; leave it out"
                )

    def _check_scale(self) -> None:
        scale = self.upscale
        allowed = {
            "": (
                scale == 1,
                "1, because the network then ends at input size; for a larger output name an upsampler",
            ),
            "nearest+conv": (scale in (2, 4), "2 or 4"),
            "pixelshuffle": (scale == 3 or (scale > 1 and scale & (scale - 1) == 0), "3 or a power of 2"),
            "pixelshuffledirect": (True, ""),
        }
        fits, instead = allowed[self.upsampler]
        if not fits:
            raise ValueError(f"upscale {scale} with upsampler '{self.upsampler}': allowed is {instead}")

    def notes(self) -> list[str]:
        """What is known of ``extra_residual``."""
        if not self.extra_residual:
            return []
        return [
            "network_g.extra_residual: every Swin layer gives about 2x + f(x), so features grow about "
            f"2^{max(self.depths)}-fold in each RSTB; this was the worst arm of its study (0.16 dB below no "
            "distillation at 20,000 steps), and no other program knows such a network"
        ]

    def check_origin(self, told: Mapping[str, object]) -> None:
        """A plain network's file of ours is not taken for one with ``extra_residual``."""
        if self.extra_residual and not told.get(MARKER):
            raise UserError(
                "the file holds a SwinIR without extra_residual, whose weights mean something else in a network with it"
            )

    def build(self) -> SwinIR:
        """The network, initialised as the original (truncated normal 0.02)."""
        from atelier.archs.swinir import SwinIR

        return SwinIR(**self.model_dump(exclude={"type"}))

    def elsa_in(self, group: int, block: int) -> ElsaOptions | None:
        """The ELSA options of block ``block`` of RSTB ``group``; None where it has window attention."""
        return self.elsa if self.elsa is not None and self.elsa.in_block(group, block) else None

    @property
    def has_elsa_everywhere(self) -> bool:
        """Whether no block has window attention."""
        blocks = ((i, j) for i, depth in enumerate(self.depths) for j in range(depth))
        return all(self.elsa_in(*block) for block in blocks)

    @property
    def scale(self) -> int:
        """``upscale``."""
        return self.upscale

    @property
    def in_channels(self) -> int:
        """``in_chans``."""
        return self.in_chans

    @property
    def out_channels(self) -> int:
        """``in_chans``: every official head gives back as many channels."""
        return self.in_chans

    @property
    def size_multiple(self) -> int:
        """``window_size``."""
        return self.window_size

    @property
    def stages(self) -> tuple[str, ...]:
        """The residual groups ``layers.*``."""
        return tuple(f"layers.{group}" for group in range(len(self.depths)))

    @property
    def receptive_radius(self) -> int | None:
        """Bounded where every block has ELSA without windows: half a kernel each, one pixel each 3 x 3 convolution."""
        if self.elsa is None or self.elsa.scope != "image" or not self.has_elsa_everywhere:
            return None
        per_residual = 1 if self.resi_connection == "1conv" else 2
        trunk = sum(self.depths) * (self.elsa.kernel_size // 2) + (len(self.depths) + 1) * per_residual + 1
        # What a head sees behind its first enlargement is less in input pixels; it is counted in full.
        halvings = self.upscale.bit_length() - 1
        return trunk + {"": 1, "pixelshuffledirect": 1, "pixelshuffle": 2 + halvings}.get(
            self.upsampler, 3 + halvings
        )

    @classmethod
    def recognises(cls, shapes: Shapes) -> bool:
        """See :func:`atelier.archs.swinir_keys.are_swinir`."""
        from atelier.archs.swinir_keys import are_swinir

        return are_swinir(shapes)

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> Self:
        """See :func:`atelier.archs.swinir_files.options_from_shapes`."""
        from atelier.archs.swinir_files import options_from_shapes

        return cls.model_validate(options_from_shapes(shapes))

    def file_state(
        self, state: Mapping[str, Tensor], *, minimal_constants: bool = False
    ) -> dict[str, Tensor]:
        """See :func:`atelier.archs.swinir_files.official_state`; a network with ELSA has no official form."""
        if self.elsa is not None:
            return dict(state)
        from atelier.archs.swinir_files import official_state

        return official_state(
            state, self.window_size, 2 * self.window_size if minimal_constants else self.img_size
        )

    def network_state(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """See :func:`atelier.archs.swinir_files.without_constants` and, for names, ``swinir_keys.own_names``."""
        from atelier.archs.swinir_files import without_constants
        from atelier.archs.swinir_keys import own_names

        state, dead = own_names(state)
        own, constants = without_constants(state, self.window_size)
        if self.extra_residual and MARKER not in own:
            # The original's files have no marker: asked for by the option, they are believed.
            import torch

            own[MARKER] = torch.ones(())
        return own, dead | constants
