"""The application's model: its declarations, and the meaning of rows, fields and arguments."""
