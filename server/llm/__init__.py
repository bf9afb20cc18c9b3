"""Language models: any OpenAI-compatible server, or a small script where none is connected."""
