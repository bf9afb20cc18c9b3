"""Measures of a talking face: pictures, lips, motion; pure functions that benchmarks, training and users share."""
