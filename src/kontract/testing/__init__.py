"""What users run against their own implementations of Kontract's Protocols. Depends on no test framework."""
