"""InsTaG's motion fields: what moves each Gaussian of a head, from a voice and action units, frame by frame."""
