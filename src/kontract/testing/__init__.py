"""Tests of one's own application: fixtures for pytest in :mod:`kontract.testing.pytest`, and what they are made of.

:mod:`kontract.testing.contracts`, for those who implement Kontract's Protocols, depends on no test framework.
"""
