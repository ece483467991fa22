"""The parts of `kontract migrate`: the files, the lock file beside them, and the database."""
