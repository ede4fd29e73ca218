"""Options of ELSA attention in a SwinIR: the nested ``elsa:`` entry, and the short forms other tools write."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from atelier.options.base import Options

_SHORT = {"elsa_kernel_size": "kernel_size", "elsa_lam": "lam", "elsa_gamma": "gamma"}


class ElsaOptions(Options):
    """Enhanced Local Self-Attention (Zhou et al. 2021) in place of window attention.

    Attributes:
        kernel_size: side k of the neighbourhood, odd.
        scope: ``image`` attends on the whole padded map, without windows and shift; ``window`` inside each window,
            which is zero padded, as a published fork of SwinIR does.
        border: for ``scope: window``. ``region``: shifted windows do not look across the seam of the picture;
            ``fork``: they do, as that fork's, for exact comparison.
        where: ``all`` blocks, ``even`` (unshifted) ones, or the RSTBs of a list of indices; window attention elsewhere.
        lam, gamma: 0 or 1, whether the static filters multiply the attention and are added to it.
        group_width: input channels of each group of the k x k convolution.
        qk_scale: factor of the Hadamard product; null is (channels of a head) ** -0.5.
    """

    kernel_size: int = Field(7, ge=3)
    scope: Literal["image", "window"] = "image"
    border: Literal["region", "fork"] = "region"
    where: Literal["all", "even"] | tuple[int, ...] = "all"
    lam: int = 0
    gamma: int = 1
    group_width: int = Field(8, ge=1)
    qk_scale: float | None = Field(None, gt=0)

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("an even kernel has no middle: allowed are 3, 5, 7, ...")
        return value

    @field_validator("lam", "gamma", mode="before")
    @classmethod
    def _off_or_on(cls, value: object) -> int:
        if isinstance(value, (int, float)) and value in (0, 1):
            return int(value)
        raise ValueError(
            f"must be 0 or 1: another power of the static filters, whose entries may be negative, is NaN; "
            f"given {value!r}"
        )

    @field_validator("where")
    @classmethod
    def _each_once(cls, value: str | tuple[int, ...]) -> str | tuple[int, ...]:
        if not isinstance(value, str) and (not value or len(set(value)) < len(value)):
            raise ValueError(f"must be all, even or a list of RSTB indices, each once; given {list(value)}")
        return value

    @model_validator(mode="after")
    def _means_something(self) -> ElsaOptions:
        if not self.lam and not self.gamma:
            raise ValueError(
                "lam and gamma are both 0, which leaves no static filters: one of them must be 1"
            )
        if self.border == "fork" and self.scope == "image":
            raise ValueError(
                "border: fork does nothing with scope: image, which has no windows; leave it out"
            )
        return self

    def in_block(self, group: int, block: int) -> bool:
        """Whether block ``block`` of RSTB ``group`` has ELSA."""
        if self.where == "all":
            return True
        return block % 2 == 0 if self.where == "even" else group in self.where


def query_width(dim: int, group_width: int) -> int:
    """Channels of q and of k: two thirds of ``dim``, rounded up to whole groups."""
    return -(-2 * (dim // 3) // group_width) * group_width


def spelt_out(data: dict[str, Any]) -> dict[str, Any]:
    """Network options with ``elsa: true``, ``use_elsa`` and ``elsa_*`` rewritten as ``attention`` and ``elsa``.

    Raises:
        ValueError: options of ELSA for a network without it, or the same one given twice.
    """
    data = dict(data)
    short = {name: data.pop(key) for key, name in _SHORT.items() if key in data}
    nested = data.pop("elsa", None)
    switches = [data.pop("use_elsa")] if "use_elsa" in data else []
    if isinstance(nested, bool):
        switches.append(nested)
        nested = None
    for switch in switches:
        if not isinstance(switch, bool):
            raise ValueError(f"use_elsa must be true or false, given {switch!r}")
        chosen = "elsa" if switch else "window"
        if data.setdefault("attention", chosen) != chosen:
            raise ValueError(
                f"ELSA is switched {'on' if switch else 'off'}, but attention is {data['attention']}"
            )
    given = {} if nested is None else nested
    if short and isinstance(given, dict):
        twice = sorted(set(short) & set(given))
        if twice:
            raise ValueError(f"elsa.{twice[0]} is given twice, also as elsa_{twice[0]}")
        given = {**given, **short}
    if data.get("attention") == "elsa":
        return {**data, "elsa": given}
    if nested is not None or short:
        raise ValueError(
            f"options of ELSA do nothing with attention: {data.get('attention', 'window')}; "
            "write attention: elsa, or leave them out"
        )
    return data
