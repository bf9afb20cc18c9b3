"""The judge of turn-taking: its turns, what it keeps, its replay against the stages, and a small cut of it all."""

import hashlib
import itertools
import json
import shutil
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import anyio
import msgspec
import numpy as np
import pytest

from evaluation import turn_taking
from evaluation.spoken_turns import RECORDINGS, SETS, Turn, people, turns
from evaluation.turn_taking import POLICIES, Models, Outcome, Policy, Replay, figures, price
from server.core.events import CommitTurn, Event, OpenTurn, Order, TakeProvisional
from server.core.media import MIC_RATE, MicFrame, Transcript
from server.core.turns import TurnTaker
from server.core.voicegate import VoiceGate
from server.stages.converse import converse
from server.stages.hear import hear
from server.stages.transcribe import Listening, Transcriber
from server.vad.webrtc import WebrtcVad
from tests.virtual_time import virtual_time

pytestmark = [
    pytest.mark.skipif(find_spec("onnxruntime") is None, reason="needs: pip install -e .[endpointing]"),
    pytest.mark.skipif(shutil.which("flite") is None, reason="needs: apt-get install flite"),
]

SILENCE_500, SILENCE_800, WORDS, VOICE = POLICIES


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("heard"), listen=False)


@pytest.fixture(scope="module")
def said() -> list[Turn]:
    return list(turns("judged", 20))


# ---- the turns -------------------------------------------------------------------------------------


def test_the_judged_set_shares_nothing_with_the_tuning_set() -> None:
    tuning, judged = (SETS[name] for name in ("tuning", "judged"))
    for name in ("finished", "paused", "voices"):
        of = [{text for texts in part for text in getattr(texts, name)} for part in (tuning, judged)]
        assert not of[0] & of[1]
    assert not {texts.seed for texts in tuning} & {texts.seed for texts in judged}


def test_a_cut_of_a_set_is_its_beginning(said: list[Turn]) -> None:
    again = list(turns("judged", 3))
    assert [turn.pcm.tobytes() for turn in again] == [turn.pcm.tobytes() for turn in said[:3]]
    assert sorted({turn.kind for turn in said}) == ["backchannel", "finished", "paused", "unfinished"]
    assert [turn.number for turn in turns("tuning", 5)] == [0, 1, 2, 3, 4]


def test_a_pause_is_where_it_is_said_to_be(said: list[Turn]) -> None:
    turn = next(t for t in said if t.kind == "paused" and t.about["noise"] in ("quiet", "hiss"))
    pause_s = turn.about["pause_s"]
    assert isinstance(pause_s, float)
    (first_s, first), (last_s, whole) = turn.known
    assert whole.startswith(first)
    assert last_s == pytest.approx(turn.last_s, abs=0.06)
    begin = round((first_s + 0.1) * MIC_RATE)
    pause = turn.pcm[begin : begin + round((pause_s - 0.1) * MIC_RATE)].astype(float)
    assert np.sqrt(np.mean(pause**2)) < 0.3 * np.sqrt(
        np.mean(turn.pcm[round(turn.first_s * MIC_RATE) : begin] ** 2.0)
    )
    assert turn.words(first_s) == first
    assert turn.words(turn.last_s) == whole
    assert turn.words(0.0) == ""


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="needs: apt-get install pocketsphinx-testdata")
@pytest.mark.skipif(find_spec("pocketsphinx") is None, reason="needs: pip install pocketsphinx")
def test_people_pause_between_their_words() -> None:
    whole, _, paused = itertools.islice(people(), 3)
    assert (whole.kind, paused.kind) == ("finished", "paused")
    pause_s = paused.about["pause_s"]
    assert isinstance(pause_s, float)
    assert (paused.last_s - paused.first_s) - (whole.last_s - whole.first_s) == pytest.approx(pause_s, abs=0.02)
    assert paused.known[0][1] == "and mister john dashwood had"


# ---- what is kept ----------------------------------------------------------------------------------


class Deaf(Models):
    """May only read what is in the folder."""

    @property
    def smart_turn(self) -> None:  # type: ignore[override]
        raise AssertionError("smart-turn was asked again")

    silero = vad = decoder = smart_turn  # type: ignore[assignment]


def test_what_the_models_said_is_asked_for_once(said: list[Turn], models: Models, tmp_path: Path) -> None:
    turn = next(t for t in said if t.kind == "finished")
    first = Models(tmp_path, listen=False)
    ears = first.hear(turn)
    outcome = Replay(ears, VOICE).run()
    ears.keep()
    assert outcome.asked
    assert Replay(Deaf(tmp_path, listen=False).hear(turn), VOICE).run() == outcome
    with pytest.raises(AssertionError, match="asked again"):
        Deaf(tmp_path, listen=False).hear(said[1] if said[0] is turn else said[0])
    digest = hashlib.sha256(turn.pcm.tobytes()).hexdigest()
    assert not list(tmp_path.glob(f"{digest}*")), "another model's answers must not be taken for these"


# ---- replaying -------------------------------------------------------------------------------------


class Known:
    """Knows the words at each time, after as long as pocketsphinx takes (server.core.protocols.AsrSession)."""

    def __init__(self, turn: Turn, start: float) -> None:
        self._turn = turn
        self._start = start

    async def push(self, pcm16k: bytes) -> None: ...

    async def partials(self) -> AsyncGenerator[Transcript, None]:
        await anyio.sleep_forever()
        yield Transcript("")

    async def provisional(self) -> Transcript:
        words = self._turn.words(anyio.current_time() - self._start)
        await anyio.sleep(turn_taking.ASR_S)
        return Transcript(words)

    commit = provisional

    async def drop(self) -> None: ...

    async def aclose(self) -> None: ...


async def live(turn: Turn, policy: Policy) -> float | None:
    """When the call's own stages commit it, in seconds from its last word."""
    start = anyio.current_time()
    taker = TurnTaker(msgspec.structs.replace(policy.settings, guard_s=0.0), "en", start)
    events_in, events = anyio.create_memory_object_stream[Event](256)
    listening_in, listening = anyio.create_memory_object_stream[Listening](2000)
    committed: list[float] = []

    async def microphone() -> AsyncIterator[MicFrame]:
        for i, frame in enumerate(turn.frames()):
            await anyio.sleep_until(start + (i + 1) * turn_taking.FRAME_S)
            yield MicFrame(frame, anyio.current_time())

    def execute(order: Order) -> None:
        if isinstance(order, OpenTurn | TakeProvisional):
            listening_in.send_nowait(order)
        elif isinstance(order, CommitTurn):
            committed.append(anyio.current_time() - start - turn.last_s)
            tasks.cancel_scope.cancel()

    transcriber = Transcriber(Known(turn, start), events_in.send_nowait)
    with events_in, events, listening_in, listening:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transcriber.run, listening)
            tasks.start_soon(converse, events, taker, execute)
            vad = WebrtcVad(2).open()
            await hear(microphone(), vad, VoiceGate(), listening_in.send_nowait, events_in.send_nowait)
            tasks.cancel_scope.cancel()
    return committed[0] if committed else None


@virtual_time
async def test_a_replay_ends_turns_when_the_stages_do(said: list[Turn], models: Models) -> None:
    spoken = [turn for turn in said if turn.kind != "backchannel"][:6]
    assert {turn.kind for turn in spoken} >= {"finished", "paused"}
    for policy in (SILENCE_800, WORDS):
        for turn in spoken:
            replayed = Replay(models.hear(turn), policy).run().committed_s
            assert await live(turn, policy) == pytest.approx(replayed, abs=0.021), (policy.name, turn.about)


def test_a_small_cut_of_the_judgement(said: list[Turn], models: Models) -> None:
    """What the whole of it says of two hundred turns, seen on twenty: fewer cut-offs, sooner."""
    of = {policy.name: [Replay(models.hear(turn), policy).run() for turn in said] for policy in POLICIES}
    figure = {name: figures(outcomes) for name, outcomes in of.items()}
    assert {f["turns"] for f in figure.values()} == {17}
    assert {f["never_ended"] for f in figure.values()} == {0}
    assert figure["words_and_voice"]["cut_offs"] <= figure["silence_800"]["cut_offs"]
    assert figure["words_and_voice"]["delay_median_s"] < figure["silence_500"]["delay_median_s"]
    assert 0.5 <= figure["silence_500"]["delay_median_s"] < 0.6
    assert price(of["words_and_voice"]) < min(price(of["silence_500"]), price(of["silence_800"]))
    asked = [opinion for outcome in of["words_and_voice"] for _, _, opinion in outcome.asked]
    assert asked
    assert all(opinion is not None and 0 < opinion < 1 for opinion in asked)
    assert {opinion for outcome in of["words"] for _, _, opinion in outcome.asked} == {None}


# ---- judging ---------------------------------------------------------------------------------------


def test_figures_count_what_became_of_the_turns() -> None:
    outcomes = [
        Outcome("finished", 0.3),
        Outcome("paused", -0.8),
        Outcome("paused", 0.5),
        Outcome("unfinished", 1.3),
        Outcome("finished"),
        Outcome("backchannel", reply_cut=True),
        Outcome("backchannel"),
    ]
    figure = figures(outcomes)
    assert (figure["turns"], figure["cut_offs"], figure["never_ended"]) == (5, 1, 1)
    assert (figure["delay_median_s"], figure["delay_mean_s"]) == (0.5, 0.7)
    assert (figure["backchannels"], figure["replies_cut"]) == (2, 1)
    assert figure["paused_median_s"] == 0.5
    assert price(outcomes) == pytest.approx((0.3 + 3.0 + 0.5 + 1.3) / 4)


def test_tuning_goes_where_the_price_is_least(said: list[Turn], models: Models) -> None:
    """From a silence for what sounds finished that is far too long."""
    slow = msgspec.structs.replace(VOICE.settings, endpoint_sure_s=1.2, endpoint_patient_s=1.3)
    spoken = [models.hear(turn) for turn in said[:8]]
    lines: list[dict[str, object]] = []
    best = turn_taking.tune(spoken, Policy("slow", slow, VOICE.noise_below, listens=True), lines.append)
    assert best.settings.endpoint_sure_s < 1.2
    assert lines[-1]["tuned"] == {name: getattr(best.settings, name) for name in turn_taking.TRIED}
    tried = [line["price_s"] for line in lines if "price_s" in line]
    reached = price([Replay(ears, best).run() for ears in spoken if ears.turn.kind != "backchannel"])
    assert reached == pytest.approx(min(tried), abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--turns", "0"], "must be 1 to 240"),
        (["everything"], "there is no set everything"),
        (["judged", "--tune"], "needs the set tuning"),
    ],
)
def test_what_cannot_be_asked_for(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["turn_taking", *arguments])
    with pytest.raises(SystemExit):
        turn_taking.main()
    assert says in capsys.readouterr().err


def test_the_command_prints_the_policies_side_by_side(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["judged", "--turns", "2", "--words", "known", "--detail", "--cache", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["turn_taking", *arguments])
    turn_taking.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["policy"] for line in lines if "policy" in line] == [policy.name for policy in POLICIES]
    assert [line["turn"] for line in lines if "turn" in line] == [0, 1]
    assert len(list(tmp_path.glob("*.json"))) == 2
