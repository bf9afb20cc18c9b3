"""Each script to a voice that can say it; a spare voice for a lost one."""

import os
import signal
from collections.abc import AsyncGenerator, Sequence

import anyio
import pytest

from server.core.errors import StageError, WorkerLost
from server.core.media import Clause, Speech, Voice, Word
from tests.tts.conftest import clause, hear, peak, said, seconds, timeline
from tests.virtual_time import virtual_time
from tts.flite import FliteSettings
from tts.remote import RemoteVoice
from tts.routed import RoutedTts


class Scripted:
    """A voice that says one sample a millisecond for each character, or fails after so many pieces."""

    def __init__(
        self, *languages: str, rate: int = 8000, fails_after: int | None = None, retryable: bool = True
    ) -> None:
        self.languages: Sequence[str] = languages
        self.voices: Sequence[str] = [f"{languages[0]}-voice"]
        self.rate = rate
        self.fails_after = fails_after
        self.retryable = retryable
        self.asked: list[tuple[str, str, str]] = []
        self.closed = 0

    async def say(self, clause: Clause, voice: Voice) -> AsyncGenerator[Speech, None]:
        self.asked.append((clause.text, clause.language, voice.name))
        try:
            for i, character in enumerate(clause.text):
                if i == self.fails_after:
                    raise StageError("tts", "tts_slow", "too slow", self.retryable)
                pcm = (1000 + ord(character) % 1000).to_bytes(2, "little") * (self.rate // 10)
                word = Word(i, i + 1, 0, self.rate // 10)
                yield Speech(clause, pcm, self.rate, words=(word,), last=i == len(clause.text) - 1)
        finally:
            self.closed += 1


async def test_one_voice_says_a_mixed_clause_if_it_can() -> None:
    english, both = Scripted("en"), Scripted("zh", "en")
    routed = RoutedTts([english, both])
    await hear(routed, clause("Hello 你好 world"))
    assert (english.asked, both.asked) == ([], [("Hello 你好 world", "en", "")])
    await hear(routed, clause("Hello"))
    assert english.asked == [("Hello", "en", "")]
    await hear(routed, clause("你好", "en"))  # the characters are believed, not the label
    assert both.asked[-1] == ("你好", "zh", "")


async def test_else_each_part_is_said_by_its_own_voice_at_one_rate() -> None:
    english, chinese = Scripted("en"), Scripted("zh", rate=12_000)
    raw = "**Hello** 你好 world"
    pieces = await hear(RoutedTts([english, chinese]), clause("Hello 你好 world", raw=raw))
    assert english.asked == [("Hello ", "en", ""), ("world", "en", "")]
    assert chinese.asked == [("你好 ", "zh", "")]
    assert {piece.rate for piece in pieces} == {8000}
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert seconds(pieces) == pytest.approx(1.4, abs=0.001)
    assert "".join(said(pieces)) == "Hello 你好 world"
    words = timeline(pieces)[1]
    assert [word.start // 80 for word in words] == [10 * i for i in range(14)]


async def test_a_voice_asked_for_by_name_comes_first_and_others_are_not_confused() -> None:
    first, second, chinese = Scripted("en"), Scripted("de", "en"), Scripted("zh")
    routed = RoutedTts([first, second, chinese])
    await hear(routed, clause("Hello"), Voice("de-voice"))
    await hear(routed, clause("你好"), Voice("de-voice"))
    assert (first.asked, second.asked, chinese.asked) == ([], [("Hello", "en", "de-voice")], [("你好", "zh", "")])
    assert (routed.languages, routed.voices) == (["en", "de", "zh"], ["en-voice", "de-voice", "zh-voice"])


async def test_a_spare_voice_steps_in_and_says_so() -> None:
    broken, spare = Scripted("en", fails_after=0), Scripted("*")
    routed = RoutedTts([broken, spare])
    pieces = await hear(routed, clause("Hello"))
    assert {piece.note for piece in pieces} == {"a spare voice is speaking"}
    assert len(pieces) == 5
    await hear(routed, clause("again"))  # the broken one rests now
    assert len(broken.asked) == 1
    assert {piece.note for piece in await hear(routed, clause("你好", "zh"))} == {""}  # the spare's own language


@virtual_time
async def test_a_voice_that_goes_on_failing_is_asked_ever_more_rarely() -> None:
    broken, spare = Scripted("en", fails_after=0), Scripted("en")
    routed = RoutedTts([broken], [spare])
    asked_at = []
    for second in range(200):
        before = len(broken.asked)
        await hear(routed, clause("Hello"))
        asked_at += [second] if len(broken.asked) > before else []
        await anyio.sleep(1.0)
    assert asked_at == [0, 10, 30, 70, 150]
    broken.fails_after = None
    await anyio.sleep(160.0)
    assert not any(piece.note for piece in await hear(routed, clause("Hello")))
    broken.fails_after = 0  # it worked: its next failure counts as the first
    await hear(routed, clause("Hello"))
    await anyio.sleep(11.0)
    count = len(broken.asked)
    await hear(routed, clause("Hello"))
    assert len(broken.asked) == count + 1


async def test_a_clause_begun_is_not_begun_again() -> None:
    broken, spare = Scripted("en", fails_after=2), Scripted("en")
    with pytest.raises(StageError, match="too slow"):
        await hear(RoutedTts([broken, spare]), clause("Hello"))
    assert not spare.asked


async def test_a_text_that_a_voice_refuses_does_not_put_it_to_rest() -> None:
    picky, spare = Scripted("en", fails_after=0, retryable=False), Scripted("en")
    routed = RoutedTts([picky, spare])
    await hear(routed, clause("Hello"))
    picky.fails_after = None
    await hear(routed, clause("Again"))
    assert [text for text, *_ in picky.asked] == ["Hello", "Again"]


async def test_when_nobody_is_left_the_error_comes_out() -> None:
    with pytest.raises(StageError, match="too slow"):
        await hear(RoutedTts([Scripted("en", fails_after=0), Scripted("en", fails_after=0)]), clause("Hello"))
    with pytest.raises(StageError) as error:
        await hear(RoutedTts([Scripted("en")]), clause("你好"))
    assert error.value.code == "tts_language"


async def test_closing_closes_the_voice() -> None:
    for text in ("Hello", "Hello 你好"):
        voice = Scripted("en")
        pieces = RoutedTts([voice, Scripted("zh")]).say(clause(text), Voice())
        await anext(pieces)
        await pieces.aclose()
        assert voice.closed == 1


async def test_real_voices_leave_nothing_silent(flite: RemoteVoice, espeak: RemoteVoice) -> None:
    routed = RoutedTts([flite, espeak])
    english = await hear(routed, clause("Hello world"))
    assert english[0].rate == 16_000
    mixed = await hear(routed, clause("Hello 你好 world"))
    assert said(mixed) == ["Hello", "你好", "world"]
    chinese = await hear(routed, clause("你好", "zh"))
    assert {piece.rate for piece in mixed + chinese} == {22_050}
    assert min(peak(english), peak(mixed), peak(chinese)) > 3000
    assert not any(piece.note for piece in english + mixed + chinese)
    assert peak(await hear(routed, clause("😀👍"))) == 0


async def test_a_hung_flite_is_replaced_by_espeak_before_the_clause_is_lost(
    flite: RemoteVoice, espeak: RemoteVoice
) -> None:
    async with FliteSettings(first_s=0.3).load() as hung:
        assert hung.worker.pid is not None
        os.kill(hung.worker.pid, signal.SIGSTOP)
        try:
            pieces = await hear(RoutedTts([hung, espeak]), clause("Good morning."))
        finally:
            os.kill(hung.worker.pid, signal.SIGCONT)
    assert said(pieces) == ["Good", "morning"]
    assert {(piece.rate, piece.note) for piece in pieces} == {(22_050, "a spare voice is speaking")}


async def test_a_lost_worker_counts_as_a_failed_voice() -> None:
    class Lost(Scripted):
        async def say(self, clause: Clause, voice: Voice) -> AsyncGenerator[Speech, None]:
            raise WorkerLost("tts", "it died")
            yield  # type: ignore[unreachable]

    assert (await hear(RoutedTts([Lost("en"), Scripted("en")]), clause("Hello")))[0].note
