"""How the universal motion field and the voice encoder that ship with the product were made."""
