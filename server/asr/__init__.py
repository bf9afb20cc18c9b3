"""Recognisers of speech; those that compute do so in a process of their own."""
