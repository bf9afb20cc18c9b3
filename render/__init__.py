"""Faces: painted and encoded in a worker process of their own; only render.remote is seen by the server."""
