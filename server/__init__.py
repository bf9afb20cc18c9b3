"""The server process: asyncio only; it hears, decides, and hands out packets that workers made."""
