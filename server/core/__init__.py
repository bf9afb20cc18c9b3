"""Floor 0: what flows and what is decided. Pure: no IO, no clock of its own; time is an argument."""
