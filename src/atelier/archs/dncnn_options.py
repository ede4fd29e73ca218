"""Options of DnCNN, under KAIR's names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from atelier.archs.network_options import NetworkOptions, Shapes
from atelier.errors import UserError

if TYPE_CHECKING:
    from atelier.archs.dncnn import DnCNN


class DnCNNOptions(NetworkOptions):
    """``nb`` counts all convolutions; ``act_mode`` is what follows those in the middle.

    ``R`` is ReLU, ``L`` LeakyReLU of slope 0.2, and a ``B`` before either puts a batch normalisation between the
    convolution and it. The first convolution has the activation alone, the last one nothing.
    """

    type: Literal["DnCNN"] = "DnCNN"
    in_nc: int = Field(1, ge=1)
    out_nc: int = Field(1, ge=1)
    nc: int = Field(64, ge=1)
    nb: int = Field(17, ge=2)
    act_mode: Literal["R", "L", "BR", "BL"] = "BR"

    @model_validator(mode="after")
    def _noise_must_fit(self) -> Self:
        if self.in_nc != self.out_nc:
            raise ValueError(
                f"in_nc {self.in_nc} and out_nc {self.out_nc} must be equal: the network's result is subtracted from "
                "its input"
            )
        return self

    def build(self) -> DnCNN:
        """The network, PyTorch's default initialisation."""
        from atelier.archs.dncnn import DnCNN

        return DnCNN(**self.model_dump(exclude={"type"}))

    @property
    def normalises(self) -> bool:
        """Whether there is batch normalisation."""
        return "B" in self.act_mode

    @property
    def scale(self) -> int:
        """A denoiser: 1."""
        return 1

    @property
    def in_channels(self) -> int:
        """``in_nc``."""
        return self.in_nc

    @property
    def out_channels(self) -> int:
        """``out_nc``."""
        return self.out_nc

    @property
    def stages(self) -> tuple[str, ...]:
        """The activation after each convolution between the first and the last."""
        stride = 3 if self.normalises else 2
        return tuple(f"model.{1 + stride * block}" for block in range(1, self.nb - 1))

    @property
    def receptive_radius(self) -> int:
        """One pixel for each of the ``nb`` convolutions of 3x3."""
        return self.nb

    @classmethod
    def recognises(cls, shapes: Shapes) -> bool:
        """A flat ``model`` of 3x3 convolutions with as many channels at the end as at the beginning.

        KAIR's FDnCNN (the noise level is a further input channel) is told apart by its channels. One IRCNN of seven
        convolutions has the same tensors as a DnCNN of seven, but dilated: no file says which it is, DnCNN is taken.
        """
        places = _places(shapes)
        if not places or any(not key.startswith("model.") or key.count(".") != 2 for key in shapes):
            return False
        convolutions = [shapes[f"model.{place}.weight"] for place in places]
        return (
            places[0] == 0
            and len(places) > 1
            and all(shape[2:] == (3, 3) for shape in convolutions)
            and convolutions[0][1] == convolutions[-1][0]
        )

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> Self:
        """Everything but the activation: ``R`` and ``L`` leave the same file (``R`` is assumed)."""
        places = _places(shapes)
        others = [
            key
            for key, shape in shapes.items()
            if key.endswith(".weight")
            and len(shape) == 1
            and key.replace("weight", "running_mean") not in shapes
        ]
        if others:
            raise UserError(
                f"{others[0]} is no batch normalisation (there is no running_mean beside it); "
                "instance normalisation is not supported"
            )
        normalises = any(key.endswith(".running_mean") for key in shapes)
        stride = 3 if normalises else 2
        if places != [0, *range(2, 2 + stride * (len(places) - 1), stride)]:
            raise UserError(
                f"its convolutions stand at model.{', '.join(str(place) for place in places)}, which is no act_mode "
                "of R, L, BR or BL"
            )
        nc, in_nc = shapes["model.0.weight"][:2]
        return cls.model_validate(
            {
                "in_nc": in_nc,
                "out_nc": shapes[f"model.{places[-1]}.weight"][0],
                "nc": nc,
                "nb": len(places),
                "act_mode": "BR" if normalises else "R",
            }
        )


def _places(shapes: Shapes) -> list[int]:
    """Indices of the convolutions in ``model``, in order."""
    parts = [key.split(".") for key, shape in shapes.items() if len(shape) == 4]
    return sorted(
        int(each[1]) for each in parts if len(each) == 3 and each[0] == "model" and each[1].isdecimal()
    )
