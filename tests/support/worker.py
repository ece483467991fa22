"""The Worker in workerd, as users have it for their own tests."""

from kontract.testing.worker import running_worker

__all__ = ["running_worker"]
