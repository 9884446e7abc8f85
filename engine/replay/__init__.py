"""Recorded decisions decided again: with the bundle that they were made with, to show that nothing has changed, or
with another one, to show what would."""
