"""Distillation: a trained teacher shows a smaller student how to restore pictures."""
