"""The voice server's parts that need no model: hop lengths, texts, versions, standing alone."""

import ast
import itertools
from pathlib import Path

import pytest

from tts.cosyvoice_server.hops import FEWEST, GRAIN, LONGEST, hops
from tts.cosyvoice_server.texts import instruction, sayable, transcript, without_prompt

SERVER = Path(__file__).parents[2] / "tts/cosyvoice_server"


def first(prompt: int, count: int = 5, fewest: int = FEWEST) -> list[int]:
    return list(itertools.islice(hops(prompt, fewest), count))


def test_behind_whole_seconds_pieces_are_as_upstream_means_them() -> None:
    assert first(75) == [25, 50, 100, 100, 100]
    assert first(0) == [25, 50, 100, 100, 100]


@pytest.mark.parametrize("prompt", range(130))
def test_pieces_fill_blocks_and_the_first_is_never_later_than_upstreams(prompt: int) -> None:
    lengths = first(prompt, 8)
    upstream = GRAIN + -prompt % GRAIN
    assert FEWEST <= lengths[0] <= upstream
    assert all((prompt + sum(lengths[: i + 1])) % GRAIN == 0 for i in range(8))
    assert max(lengths) <= LONGEST
    assert all(b <= 2 * max(a, GRAIN // 2) or b == GRAIN for a, b in itertools.pairwise(lengths))


def test_a_first_piece_may_be_asked_to_be_longer() -> None:
    assert first(60, 4) == [15, 25, 50, 100]
    assert first(60, 3, fewest=25) == [40, 75, 100]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Hello", "Hello."),
        ("Hello, world,", "Hello, world."),
        ("Really?", "Really?"),
        ("你好", "你好。"),
        ("你好，", "你好。"),
        ("（你好）", "（你好。）"),
        ('He said "no"', 'He said "no."'),
        ('He said "no."', 'He said "no."'),
        ("  two\n lines ", "two lines."),
        ("<|im_end|>Hi", "im_end Hi."),
        ("[laughter] Hi!", "[laughter] Hi!"),
    ],
)
def test_texts_end_in_a_mark_and_hold_no_control_tokens(text: str, said: str) -> None:
    assert sayable(text) == said


def test_generation_3_has_its_prefixes() -> None:
    assert transcript("It is me.", 2) == "It is me."
    assert transcript("It is me.", 3) == "You are a helpful assistant.<|endofprompt|>It is me."
    assert without_prompt("Hi.", 2) == "Hi."
    assert without_prompt("Hi.", 3) == "You are a helpful assistant.<|endofprompt|>Hi."
    assert instruction("whisper", 2) == "whisper<|endofprompt|>"
    assert (
        instruction("whisper<|endofprompt|>", 3) == "You are a helpful assistant. whisper endofprompt<|endofprompt|>"
    )


def test_versions_that_compute_nonsense_are_refused() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    from tts.cosyvoice_server.checks import Unsound, check_versions

    check_versions("4.51.3")
    check_versions("4.57.1")
    for wrong in ("5.0.0", "5.23.1", "4.58.0", "4.39.3", "3.0"):
        with pytest.raises(Unsound, match=r"pip install transformers==4\.51\.3"):
            check_versions(wrong)


def test_it_stands_alone_and_loads_late() -> None:
    """It runs in another environment: nothing of ours, and on Python 3.10."""
    for file in SERVER.glob("*.py"):
        tree = ast.parse(file.read_text("utf-8"), feature_version=(3, 10))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module is not None
                assert node.module.partition(".")[0] not in ("server", "tts", "render", "evaluation"), file
            elif isinstance(node, ast.Import):
                assert not any(n.name.partition(".")[0] in ("server", "tts", "render") for n in node.names), file
