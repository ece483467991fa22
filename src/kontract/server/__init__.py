"""Adapters for CPython. Nothing here is imported by the Worker."""
