"""WebRTC: one peer's connection, its tracks, and the wire protocols that speak to it."""
