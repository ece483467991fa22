"""Tests of your own application: fixtures for pytest in :mod:`kontract.testing.pytest`, and their parts.

:mod:`kontract.testing.contracts`, for implementations of Kontract's Protocols, depends on no test framework.
"""
