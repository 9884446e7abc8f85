"""Loads files of rows into a feature store."""
