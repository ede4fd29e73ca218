"""Full-reference metrics by their published definitions, each labelled with its protocol.

The functions bear the names of their modules, so they are imported here at once: a name looked up later
would find the module instead. numpy and OpenCV wait until something is measured.
"""

from __future__ import annotations

from atelier.metrics.options import METRICS, Metric, MetricOptions
from atelier.metrics.psnr import psnr
from atelier.metrics.psnrb import psnrb
from atelier.metrics.ssim import ssim

__all__ = ["METRICS", "Metric", "MetricOptions", "psnr", "psnrb", "ssim"]
