"""Options of the whole system: a source of flow, exemplar matching, and their fusion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import SerializeAsAny

from atelier.archs.fusion_options import FUSIONS, FusionOptions, UNetFusionOptions
from atelier.archs.network_options import NetworkOptions, Shapes
from atelier.colorize.flow_options import FLOWS, DisFlowOptions, FlowOptions
from atelier.colorize.matcher_options import EXEMPLARS, ExemplarOptions, TinyExemplarOptions
from atelier.options.base import Registered

if TYPE_CHECKING:
    from atelier.colorize.system import FusionSystem

Mode = Literal["fused", "average", "flow", "exemplar", "grey"]


class FusionSystemOptions(NetworkOptions):
    """The parts of a colorizer. The defaults need no weights from elsewhere."""

    type: Literal["FusionSystem"] = "FusionSystem"
    flow: Annotated[SerializeAsAny[FlowOptions], Registered(FLOWS)] = DisFlowOptions()
    exemplar: Annotated[SerializeAsAny[ExemplarOptions], Registered(EXEMPLARS)] = TinyExemplarOptions()
    fusion: Annotated[SerializeAsAny[FusionOptions], Registered(FUSIONS)] = UNetFusionOptions()

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
