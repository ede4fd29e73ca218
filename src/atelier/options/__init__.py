"""The typed schema of a run, overrides, and readers of option files (no heavy import anywhere in this room)."""
