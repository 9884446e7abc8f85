"""Outcomes: what later happened to what was decided, kept, joined with decisions, and measured."""
