"""The viewer. Empty in this version."""
