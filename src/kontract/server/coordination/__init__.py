"""Coordination on several nodes: one log an owner, replayed by every node that serves the owner."""
