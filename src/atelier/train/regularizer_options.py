"""Options of :mod:`atelier.train.regularizers` (no torch here)."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from atelier.options.base import Options


class RegularizerOptions(Options):
    """KAIR's corrections of the weights after a step (``G_regularizer_orthstep``, ``G_regularizer_clipstep``)."""

    orth_freq: int | None = Field(
        None, ge=1, description="steps between corrections towards orthogonal convolutions; null: never"
    )
    clip_freq: int | None = Field(
        None, ge=1, description="steps between corrections of entries beyond 1.5; null: never"
    )

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.orth_freq is None and self.clip_freq is None:
            raise ValueError("regularizer does nothing without orth_freq or clip_freq")
        return self
