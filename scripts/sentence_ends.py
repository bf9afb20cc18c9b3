"""Writes server/core/sentence_ends.py: behind which of the commonest English words how many sentences end."""

import math
import textwrap
from pathlib import Path

from pocketsphinx import Config, Decoder, get_model_path

WORDS = 1000
CLASSES = (1, 2, 4, 8, 16, 32)  # per cent; each word goes to the nearest, by ratio
USUAL = 16
LEFT_OUT = {"fucking", "shit", "n", "s.", "t", "u", "de"}
HEAD = '''"""How often an English sentence ends behind a word, from the language model that pocketsphinx brings.

Made by scripts/sentence_ends.py: P(</s> | word) in en-us.lm.bin (CMU Sphinx, BSD licence) of its {words} commonest
words, rounded to powers of two. Of words that are not here it is as usual.
"""

USUAL = {share}

_PER_CENT = {{
'''


def main() -> None:
    model = Path(get_model_path()) / "en-us"
    decoder = Decoder(
        Config(
            hmm=str(model / "en-us"),
            lm=str(model / "en-us.lm.bin"),
            dict=str(model / "cmudict-en-us.dict"),
            loglevel="FATAL",
        )
    )
    lm, log_base = decoder.get_lm(), math.log(1.0001)
    known = {line.split()[0] for line in (model / "cmudict-en-us.dict").read_text().splitlines()}
    commonest = sorted((w for w in known if "(" not in w), key=lambda w: lm.prob([w]), reverse=True)[:WORDS]
    found: dict[int, list[str]] = {share: [] for share in CLASSES}
    for word in commonest:
        if word in LEFT_OUT:
            continue
        per_cent = 100 * math.exp(lm.prob(["</s>", word]) * log_base)
        found[min(CLASSES, key=lambda share: abs(math.log(per_cent / share)))].append(word)
    lines = []
    for share, words in found.items():
        if share != USUAL:
            text = textwrap.fill(" ".join(sorted(words)), 108, break_on_hyphens=False, break_long_words=False)
            lines.append(f'    {share}: """\n' + textwrap.indent(text, " " * 8) + '\n    """,\n')
    tail = "}\n\nSHARES = {word: share / 100 for share, words in _PER_CENT.items() for word in words.split()}\n"
    target = Path(__file__).parent.parent / "server/core/sentence_ends.py"
    target.write_text(HEAD.format(words=WORDS, share=USUAL / 100) + "".join(lines) + tail)


if __name__ == "__main__":
    main()
