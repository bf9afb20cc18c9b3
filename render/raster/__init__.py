"""Rasterisers of 3D Gaussians: a float64 reference that judges, a numba CPU one, and its backward pass."""
