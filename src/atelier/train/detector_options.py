"""Thresholds of the health detectors (``health.detectors``)."""

from __future__ import annotations

from pydantic import Field

from atelier.options.base import Options


class ConvergenceOptions(Options):
    """Losses that do not converge."""

    window: int = Field(2000, ge=2, description="steps looked at (at most a quarter of total_iter)")
    least_lines: int = Field(8, ge=4, description="log lines the window must hold before it is judged")
    p: float = Field(0.01, gt=0, lt=1, description="chance allowed for taking noise for a rise")
    rise: float = Field(
        0.1, ge=0, description="share of the median by which the loss must rise in the window"
    )
    above_best: float = Field(
        1.5, gt=1, description="median over the best median of a window that is too much"
    )
    patience: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of total_iter after which validation must not be below its first value",
    )
    fall: float = Field(
        0.001, ge=0, description="share of the first validation's value by which a later one may be below it"
    )


class CollapseOptions(Options):
    """A discriminator that has won, or learns nothing."""

    steps: int = Field(500, ge=1, description="steps the means are taken over")
    least_loss: float = Field(0.05, ge=0, description="l_d_real + l_d_fake below this: it has won")
    most_gap: float = Field(10.0, gt=0, description="out_d_real - out_d_fake above this: it has won")
    most_share: float = Field(0.9, gt=0, le=1, description="share of l_g_gan in the generator's loss")
    idle_steps: int = Field(2000, ge=1, description="steps at ln 2 after which it learns nothing")
    idle_band: float = Field(0.01, ge=0, description="how near to ln 2 counts as at ln 2")


class ColourOptions(Options):
    """Colours that drift, measured at every validation against gt."""

    after_steps: int = Field(
        1000, ge=0, description="a young network's colours are not judged before this step"
    )
    most_shift: float = Field(4.0, gt=0, description="difference of a channel's mean, in levels of 255")
    most_chroma: float = Field(2.0, gt=1, description="energy of fine chroma structure over gt's")


class SmoothingOptions(Options):
    """Detail that is smoothed away (runs with a perceptual or GAN term)."""

    least_sharpness: float = Field(0.6, gt=0, le=1, description="gradient energy over gt's")


class SlowOptions(Options):
    """Training that is too slow."""

    min_it_per_s: float = Field(2.0, ge=0, description="steps a second; 0 switches this detector off")
    after_steps: int = Field(100, ge=0, description="warm-up that does not count")
    least_lines: int = Field(3, ge=1, description="log lines the median is taken over")
    data_share: float = Field(
        0.3, ge=0, le=1, description="share of waiting above which the data are the cause"
    )


class TeachingOptions(Options):
    """Distilled runs."""

    least_std: float = Field(
        0.6, ge=0, lt=1, description="spread of a student tap over its first value: below it, it collapses"
    )
    least_share: float = Field(0.001, ge=0, description="share of the loss below which a term does nothing")
    dead_for: float = Field(0.05, gt=0, le=1, description="share of the run for which it must stay so")
    least_lines: int = Field(3, ge=1, description="log lines that must tell so")


class DetectorOptions(Options):
    """Detectors that warn once each, in log, metrics.jsonl and report; they never stop a run."""

    enabled: bool = Field(True, description="false: none of them")
    convergence: ConvergenceOptions = ConvergenceOptions()
    collapse: CollapseOptions = CollapseOptions()
    colour: ColourOptions = ColourOptions()
    smoothing: SmoothingOptions = SmoothingOptions()
    slow: SlowOptions = SlowOptions()
    teaching: TeachingOptions = TeachingOptions()
