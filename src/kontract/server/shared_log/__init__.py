"""Stores for the log that nodes share."""
