"""Keys, passwords and the encrypted transport: pure, over the platform's primitives."""
