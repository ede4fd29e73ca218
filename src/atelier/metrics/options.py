"""What every metric's options share, the registry that finds them, and the metric they build."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from atelier.options.base import Component, Registry

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Pixels = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Metric:
    """A metric ready to measure.

    Attributes:
        protocol: what is measured and how, for every place a number is shown: ``PSNR-Y (BT.601, crop 4)``.
            Grey pictures are measured as they are under any name: a grey picture is its own Y.
        higher_is_better: which way is up.
        measure: the function of two pictures.
        least: height and width in pixels that a picture must have.
    """

    protocol: str
    higher_is_better: bool
    measure: Callable[[Pixels, Pixels], float]
    least: int = 1

    def __call__(self, restored: Pixels, gt: Pixels) -> float:
        """The value for two pictures ``H×W×C`` of equal size and type (uint8, uint16 or float in [0, 1]).

        Raises:
            UserError: where they do not fit together or are too small.
        """
        return self.measure(restored, gt)


class MetricOptions(Component):
    """Options that all metrics share (BasicSR's key names)."""

    crop_border: int | None = Field(
        None, ge=0, description="pixels cut off every side; null: the run's scale"
    )
    test_y_channel: bool = Field(False, description="measure luma (BT.601, studio range) instead of RGB")
    better: Literal["higher", "lower"] | None = Field(
        None, description="which values are better; null: the metric's own sense"
    )

    label: ClassVar[str]
    natural_sense: ClassVar[Literal["higher", "lower"]] = "higher"
    #: Height and width in pixels that must be left inside of ``crop_border``.
    smallest: ClassVar[int] = 1

    def function(self) -> Callable[..., float]:
        """The metric's function, with keywords ``crop_border`` and ``y``."""
        raise NotImplementedError

    def build(self, scale: int, channels: int = 3) -> Metric:
        """The metric for a run of this scale, named for pictures of so many channels."""
        crop, y = scale if self.crop_border is None else self.crop_border, self.test_y_channel
        function = self.function()

        def measure(restored: Pixels, gt: Pixels) -> float:
            return function(restored, gt, crop_border=crop, y=y)

        colour = "grey (" if channels == 1 else "Y (BT.601, " if y else "RGB ("
        return Metric(
            f"{self.label}-{colour}crop {crop})",
            (self.better or self.natural_sense) == "higher",
            measure,
            self.smallest + 2 * crop,
        )


METRICS: Registry[Any] = Registry(
    "metric",
    {
        "calculate_psnr": "atelier.metrics.psnr:PSNROptions",
        "calculate_psnrb": "atelier.metrics.psnrb:PSNRBOptions",
        "calculate_ssim": "atelier.metrics.ssim:SSIMOptions",
        "colour_shift": "atelier.metrics.colour_shift:ColourShiftOptions",
        "lpips": "atelier.metrics.lpips:LPIPSOptions",
        "psnr": "atelier.metrics.psnr:PSNROptions",
        "psnrb": "atelier.metrics.psnrb:PSNRBOptions",
        "ssim": "atelier.metrics.ssim:SSIMOptions",
    },
)
