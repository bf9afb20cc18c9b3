"""Floor 1: worker processes, and the framed messages between them and the server."""
