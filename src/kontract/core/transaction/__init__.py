"""A transaction on the worker's side: attempts, what it read and wrote, and the SQL of it."""
