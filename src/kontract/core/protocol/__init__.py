"""The commit protocol of one owner: pure state machines, for one process and for several nodes."""
