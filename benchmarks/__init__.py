"""Measurements against the real thing; each prints JSON lines and says what it measured. Never part of the tests."""
