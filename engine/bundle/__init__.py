"""From a directory to a compiled plan: read, check, compile, digest."""
