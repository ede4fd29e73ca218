"""Options of the whole system: a source of flow, exemplar matching, and their fusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, SerializeAsAny

from atelier.archs.fusion_options import FUSIONS, FusionOptions, UNetFusionOptions
from atelier.archs.network_options import NetworkOptions, Shapes
from atelier.colorize.flow_options import FLOWS, DisFlowOptions, FlowOptions
from atelier.colorize.matcher_options import EXEMPLARS, ExemplarOptions, TinyExemplarOptions
from atelier.options.base import Registered

if TYPE_CHECKING:
    from torch import Tensor

    from atelier.colorize.system import FusionSystem

Mode = Literal["fused", "average", "flow", "exemplar", "grey"]


class FusionSystemOptions(NetworkOptions):
    """The parts of a colorizer. The defaults need no weights from elsewhere."""

    works_on: ClassVar[Literal["pictures", "clips"]] = "clips"
    # Where the frozen weights come from is told by their own hashes, and the other tensors by their names.
    not_in_shapes: ClassVar[frozenset[str]] = frozenset({"flow", "exemplar", "save_frozen"})

    type: Literal["FusionSystem"] = "FusionSystem"
    flow: Annotated[SerializeAsAny[FlowOptions], Registered(FLOWS)] = DisFlowOptions()
    exemplar: Annotated[SerializeAsAny[ExemplarOptions], Registered(EXEMPLARS)] = TinyExemplarOptions()
    fusion: Annotated[SerializeAsAny[FusionOptions], Registered(FUSIONS)] = UNetFusionOptions()
    save_frozen: bool = Field(
        False,
        description="true: model files also hold the parts that do not learn; false: they name them by source and "
        "SHA-256, and loading looks whether they are the same",
    )

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """Names of the modules that do not learn; what of them exists depends on the weights given."""
        return ("flow", *(f"exemplar.{part}" for part in self.exemplar.frozen_parts))

    def file_state(
        self, state: Mapping[str, Tensor], *, minimal_constants: bool = False
    ) -> dict[str, Tensor]:
        """``state``, without the frozen parts unless ``save_frozen``."""
        left_out = () if self.save_frozen else tuple(f"{part}." for part in self.frozen_parts)
        return {key: value for key, value in state.items() if not key.startswith(left_out)}

    def build(self) -> FusionSystem:
        """The system with the weights its parts name, on the CPU."""
        from atelier.colorize.system import FusionSystem

        return FusionSystem(options=self)

    @property
    def scale(self) -> int:
        """Colours of the size of the frame: 1."""
        return 1

    @property
    def in_channels(self) -> int:
        """Lightness."""
        return 1

    @property
    def out_channels(self) -> int:
        """a and b."""
        return 2

    @property
    def size_multiple(self) -> int:
        """That of the fusion network."""
        return self.fusion.size_multiple

    @classmethod
    def recognises(cls, shapes: Shapes) -> bool:
        """Never: its files say what they are, shapes alone would not tell the parts' options."""
        return False
