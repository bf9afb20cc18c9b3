"""Training the InsTaG face, on one CPU core or on a GPU: the universal motion field, and adapting it to a person."""
