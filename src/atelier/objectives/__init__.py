"""Objectives: what one training step computes. They own no loop, no optimiser and no files."""

from atelier.objectives.base import OBJECTIVES, Objective, ObjectiveOptions, Part, TrainingBatch

__all__ = ["OBJECTIVES", "Objective", "ObjectiveOptions", "Part", "TrainingBatch"]
