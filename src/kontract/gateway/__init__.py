"""The gateway: from an HTTP request to a transaction and back, the same on every platform."""
