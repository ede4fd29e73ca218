"""Operators that spoil clean pictures."""
