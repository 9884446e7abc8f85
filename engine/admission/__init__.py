"""Which calls are taken, and which are refused before any work is done for them: the limit that finds its level,
quotas of tenants, and who goes first. Nothing here knows of gRPC or starts a thread; clocks are given.
"""
