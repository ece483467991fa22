"""The application: backend functions and tables. Replace the demo with your own."""
