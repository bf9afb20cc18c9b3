"""The rooms of the corridor: one coroutine each, channel in, channel out."""
