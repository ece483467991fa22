"""A transaction on the worker's side: attempts, reads and writes, and the SQL."""
