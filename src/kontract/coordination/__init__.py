"""The shells around the pure coordinator: they bring time, durability and the database to it."""
