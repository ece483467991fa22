"""The `kontract` command."""
