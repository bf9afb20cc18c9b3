"""How many speech tokens each piece of an utterance waits for."""

from collections.abc import Iterator

GRAIN = 25
"""Tokens (1 s) that the flow model's attention mask is made of: a piece should end where a block of it does."""
FEWEST = 15
"""Tokens of the first piece at least: 0.6 s, of which 0.16 s are held back for the joint."""
LONGEST = 4 * GRAIN


def hops(prompt: int, fewest: int = FEWEST) -> Iterator[int]:
    """Lengths of an utterance's pieces, without end, behind a prompt of so many tokens.

    Upstream waits for 25 tokens and then up to 24 more until the block is full; here the first piece is the shortest
    that fills a block: 25 behind a prompt of whole seconds, 15 behind one of 60 tokens (upstream 40). Then they
    double: each piece costs the flow model all tokens so far again.
    """
    length = -prompt % GRAIN or GRAIN
    while length < fewest:
        length += GRAIN
    while True:
        yield length
        length = min(max(2 * length // GRAIN, 1) * GRAIN, LONGEST)
