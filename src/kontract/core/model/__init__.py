"""The application's model: what it declares, and what its rows, fields and arguments mean."""
