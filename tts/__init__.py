"""Providers: voices. Each turns a clause into speech, and says when each phone and word is heard."""
