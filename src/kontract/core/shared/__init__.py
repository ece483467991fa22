"""State outside transactions: shared values and counters."""
