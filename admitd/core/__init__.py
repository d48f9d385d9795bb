"""core: the rules. Standard library only; no clock, no I/O, no threads, no logging, no environment."""
