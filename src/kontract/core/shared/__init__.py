"""State outside of transactions: shared values and counters."""
