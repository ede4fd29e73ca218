"""Options of Real-ESRGAN's degradation under the names of its own files, and its profiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from atelier.degrade.base import DegradationOptions

if TYPE_CHECKING:
    from atelier.degrade.realesrgan import RealESRGAN

Range = tuple[float, float]
KernelName = Literal["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]
Profile = Literal["realesrgan", "realesrgan-light"]

KERNELS: tuple[KernelName, ...] = get_args(KernelName)
KERNEL_WEIGHTS = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)

PROFILES: dict[Profile, dict[str, Any]] = {
    "realesrgan": {},
    "realesrgan-light": {
        "resize_range": (0.5, 1.5),
        "resize_range2": (0.5, 1.2),
        "noise_range": (1.0, 15.0),
        "noise_range2": (1.0, 15.0),
        "jpeg_range": (60.0, 95.0),
        "jpeg_range2": (60.0, 95.0),
        "second_stage_prob": 0.5,
    },
}
"""What a profile sets where the file does not. The published values are the defaults of the fields."""

QUEUE_NOTE = (
    "degradation.queue_size {size} does nothing: degradations are drawn per sample, so the pool is not needed; "
    "pool: true builds one"
)


class RealESRGANOptions(DegradationOptions):
    """``degradation: {type: realesrgan}``: blur, resize, noise and JPEG, twice (Wang et al., ICCV Workshops 2021).

    Defaults are the published values, which Real-ESRGAN's four training files share.
    """

    has_device_form: ClassVar[bool] = True

    type: Literal["realesrgan"] = "realesrgan"
    profile: Profile = Field(
        "realesrgan",
        description="realesrgan: the published values; realesrgan-light: milder ones, and the second stage only for "
        "half of the samples; keys given beside it win",
    )
    gt_usm: bool = Field(True, description="make lq of the sharpened picture, as Real-ESRGAN does")
    target_usm: bool = Field(
        False, description="the sharpened picture is also the target, as RealESRNet's gt_usm: true says"
    )

    resize_prob: tuple[float, float, float] = Field(
        (0.2, 0.7, 0.1), description="first stage: weights of enlarging, reducing and keeping the size"
    )
    resize_range: Range = Field((0.15, 1.5), description="smallest and largest factor")
    gaussian_noise_prob: float = Field(0.5, ge=0, le=1, description="Gaussian noise, otherwise Poisson")
    noise_range: Range = Field((1.0, 30.0), description="standard deviation in units of 0..255")
    poisson_scale_range: Range = Field((0.05, 3.0), description="factor of the Poisson noise")
    gray_noise_prob: float = Field(0.4, ge=0, le=1, description="one field of noise for all channels")
    jpeg_range: Range = Field((30.0, 95.0), description="quality")

    second_blur_prob: float = Field(0.8, ge=0, le=1, description="second stage: probability of its blur")
    second_stage_prob: float = Field(
        1.0, ge=0, le=1, description="probability of the second stage's blur, resize and noise altogether"
    )
    resize_prob2: tuple[float, float, float] = Field((0.3, 0.4, 0.3), description="as resize_prob")
    resize_range2: Range = Field((0.3, 1.2), description="factors of the final size")
    gaussian_noise_prob2: float = Field(0.5, ge=0, le=1, description="as gaussian_noise_prob")
    noise_range2: Range = Field((1.0, 25.0), description="as noise_range")
    poisson_scale_range2: Range = Field((0.05, 2.5), description="as poisson_scale_range")
    gray_noise_prob2: float = Field(0.4, ge=0, le=1, description="as gray_noise_prob")
    jpeg_range2: Range = Field((30.0, 95.0), description="quality of the last compression")

    blur_kernel_size: int = Field(
        21,
        description="largest side of the first stage's kernels (odd sides from 7); 21 in the original, always",
    )
    kernel_list: list[KernelName] = Field(list(KERNELS), description="kinds of kernels beside sinc")
    kernel_prob: list[float] = Field(list(KERNEL_WEIGHTS), description="weight of each of kernel_list")
    sinc_prob: float = Field(0.1, ge=0, le=1, description="probability of a sinc kernel")
    blur_sigma: Range = Field((0.2, 3.0), description="standard deviations in pixels")
    betag_range: Range = Field(
        (0.5, 4.0), description="exponents of generalized kernels: half below 1, half above"
    )
    betap_range: Range = Field(
        (1.0, 2.0), description="exponents of plateau kernels: half below 1, half above"
    )

    blur_kernel_size2: int = Field(21, description="as blur_kernel_size, and of the final sinc")
    kernel_list2: list[KernelName] = Field(list(KERNELS), description="as kernel_list")
    kernel_prob2: list[float] = Field(list(KERNEL_WEIGHTS), description="as kernel_prob")
    sinc_prob2: float = Field(0.1, ge=0, le=1, description="as sinc_prob")
    blur_sigma2: Range = Field((0.2, 1.5), description="as blur_sigma")
    betag_range2: Range = Field((0.5, 4.0), description="as betag_range")
    betap_range2: Range = Field((1.0, 2.0), description="as betap_range")

    final_sinc_prob: float = Field(0.8, ge=0, le=1, description="probability of the last sinc filter")

    jpeg: Literal["libjpeg", "reference"] = Field(
        "libjpeg",
        description="libjpeg: the real encoder (whole qualities); reference: the original program's arithmetic, "
        "whose tables are transposed",
    )
    queue_size: int = Field(180, ge=1, description="pairs of the pool; does nothing without pool: true")
    pool: bool = Field(
        False,
        description="train on pairs of earlier steps, drawn from the last queue_size, as the original does",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from_profile(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        preset = PROFILES.get(given.get("profile", "realesrgan"), {})
        return {**preset, **given}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for key, (least, most) in _LIMITS.items():
            for name in (key, f"{key}2"):
                low, high = getattr(self, name)
                if not least <= low <= high <= most:
                    raise ValueError(
                        f"{name} must be [low, high] within {least:g}..{most:g}, not [{low:g}, {high:g}]"
                    )
        for suffix in ("", "2"):
            self._check_stage(suffix)
        return self

    def _check_stage(self, suffix: str) -> None:
        """Weights and ranges that depend on each other, of one stage."""
        for key in ("resize_prob", "kernel_prob"):
            weights = getattr(self, key + suffix)
            if min(weights, default=-1.0) < 0 or sum(weights) <= 0:
                raise ValueError(
                    f"{key}{suffix} must hold weights of 0 or more that are not all 0, not {list(weights)}"
                )
        names, weights = getattr(self, f"kernel_list{suffix}"), getattr(self, f"kernel_prob{suffix}")
        if len(names) != len(weights):
            raise ValueError(
                f"kernel_list{suffix} has {len(names)} kernels, kernel_prob{suffix} {len(weights)} weights"
            )
        size = getattr(self, f"blur_kernel_size{suffix}")
        if not 7 <= size <= 51 or size % 2 == 0:
            raise ValueError(f"blur_kernel_size{suffix} must be odd and within 7..51, not {size}")
        (up, down, _), (low, high) = (
            getattr(self, f"resize_prob{suffix}"),
            getattr(self, f"resize_range{suffix}"),
        )
        if (up and high < 1) or (down and low > 1):
            raise ValueError(
                f"resize_range{suffix} [{low:g}, {high:g}] must include 1: enlarging draws from 1 up, reducing up to 1 "
                f"(or set their weight in resize_prob{suffix} to 0)"
            )
        for kind in ("betag_range", "betap_range"):
            low, high = getattr(self, kind + suffix)
            if not low <= 1 <= high:
                raise ValueError(f"{kind}{suffix} [{low:g}, {high:g}] must include 1")

    def notes(self) -> list[str]:
        """Weights that do not sum to one, sizes that the original does not honour, a pool that is not built."""
        found = []
        for key in ("resize_prob", "resize_prob2", "kernel_prob", "kernel_prob2"):
            total = sum(getattr(self, key))
            if abs(total - 1) > 1e-6:
                found.append(f"degradation.{key} sums to {total:g}; its values are taken as weights")
        for key in ("blur_kernel_size", "blur_kernel_size2"):
            size = getattr(self, key)
            if size != 21:
                found.append(
                    f"degradation.{key} {size} is honoured as the largest kernel (the original ignores it and uses 21)"
                )
        if "queue_size" in self.model_fields_set and not self.pool:
            found.append(QUEUE_NOTE.format(size=self.queue_size))
        return found

    def build(self, scale: int) -> RealESRGAN:
        """The operator for pictures ``scale`` times larger than the network's input."""
        from atelier.degrade.realesrgan import RealESRGAN

        return RealESRGAN(scale, self)


_LIMITS: dict[str, Range] = {
    "resize_range": (0.01, 16.0),
    "noise_range": (0.0, 255.0),
    "poisson_scale_range": (0.0, 100.0),
    "jpeg_range": (1.0, 100.0),
    "blur_sigma": (0.01, 50.0),
    "betag_range": (0.01, 100.0),
    "betap_range": (0.01, 100.0),
}
