"""Frozen types that every stage speaks in. Imports nothing of ours, no driver, no protobuf."""
