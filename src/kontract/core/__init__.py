"""The pure core of Kontract: no I/O, no clock, no randomness, no platform.

Everything here is driven from outside: adapters provide time, sleep, the database and the coordinator's transport
through the Protocols of :mod:`kontract.ports`. ``tests/core/test_purity.py`` fails when a module of this package
imports a platform module.
"""
