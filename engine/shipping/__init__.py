"""Moves the local journal to Cassandra, and reads it there."""
