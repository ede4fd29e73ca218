"""The embedded matcher: luminance texture, no weights from elsewhere."""

from __future__ import annotations

from torch import Tensor

from atelier.archs.nonlocal_match import centred_unit
from atelier.archs.tiny_exemplar import TinyExemplarNet
from atelier.colorize.matcher import ExemplarMatcher
from atelier.colorize.matcher_options import TinyExemplarOptions


class TinyMatcher(ExemplarMatcher):
    """Matching by a network that sees L alone, so references must show the same scene.

    Args:
        options: its settings; filters are those of ``options.seed``.
    """

    size_multiple = 4
    enlarging = "bilinear"

    def __init__(self, options: TinyExemplarOptions | None = None) -> None:
        options = options or TinyExemplarOptions()
        super().__init__(options.attention_chunk)
        self.net = TinyExemplarNet(options.seed)

    def temperature(self) -> Tensor:
        """The learned one."""
        return self.net.temperature

    def keys(self, lab: Tensor, valid: Tensor | None) -> Tensor:
        """Of the reference's lightness; see the base class."""
        return self.queries(lab[:, :1], valid)

    def queries(self, lightness: Tensor, valid: Tensor | None) -> Tensor:
        """See the base class."""
        return centred_unit(self.net(lightness), valid)
