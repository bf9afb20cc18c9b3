"""Turn-taking as a table of scenarios: minutes of conversation in milliseconds, every order at its exact time."""

import random
from dataclasses import dataclass, replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.core.events import (
    AbandonTurn,
    ChangeState,
    CommitTurn,
    CutReply,
    DropReply,
    Event,
    FinalHeard,
    Interrupted,
    MicrophoneLost,
    OpenTurn,
    PartialHeard,
    PauseReply,
    PeerLost,
    PrepareReply,
    ProvisionalHeard,
    ReleaseReply,
    ReplyFailed,
    ReplyFinished,
    ReplyPrepared,
    ReplyProgressed,
    ReplyRequested,
    ReplyStarted,
    ResumeReply,
    State,
    TakeProvisional,
    TurnCleared,
    TurnClosed,
    VoiceStarted,
    VoiceStopped,
)
from server.core.settings import TurnSettings
from server.core.turns import TurnTaker
from tests.core.scenario import Scenario, Sound, Witness, in_words

UNGUARDED = TurnSettings(guard_s=0.0)
PUSH = TurnSettings(guard_s=0.0, mode="push_to_talk")
ASKED = Sound(1.0, 2.0, "what is the weather in paris")  # neither finished nor unfinished: endpoint_s holds
FRAGTE = Sound(1.0, 2.0, "帮我看巴黎天气")

ASKED_AND_ANSWERED = """
    1.08 open 1 from 1.00
    1.08 -> hearing
    2.20 take 1
    2.25 prepare #1 to 1 for 2.50: what is the weather in paris
    2.50 commit 1 at 2.00: what is the weather in paris
    2.50 release #1
    2.50 -> thinking
"""
SPOKEN = ASKED_AND_ANSWERED + "2.52 -> speaking\n"
ZH_SPOKEN = SPOKEN.replace("what is the weather in paris", "帮我看巴黎天气")


@dataclass
class Case:
    name: str
    scenario: Scenario
    expected: str
    until: float = 60.0


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines() if line.strip()]


# The voice is told 0.08 s late, its end 0.1 s late; the ASR answers after 0.05 s, a reply is ready 0.1 s after its
# order and audible 0.02 s after both that and its release, and lasts 4 s.
CASES = [
    # ---- the end of a turn, and speculation --------------------------------------------------------
    Case(
        "the reply is prepared at the soft end and released at the endpoint",
        Scenario((ASKED,)),
        SPOKEN + "6.52 -> listening",
    ),
    Case(
        "a reply that is slow to make is released all the same, and audible when it is there",
        Scenario((ASKED,), make_s=1.0),
        ASKED_AND_ANSWERED + "3.27 -> speaking\n7.27 -> listening",
    ),
    Case(
        "who goes on has the prepared reply thrown away, and their turn goes on",
        Scenario((Sound(1.0, 2.0, "what is the weather"), Sound(2.3, 3.0, "in paris"))),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.20 take 1
        2.25 prepare #1 to 1 for 2.50: what is the weather
        2.38 drop #1 continued
        3.20 take 1
        3.25 prepare #2 to 1 for 3.50: what is the weather in paris
        3.50 commit 1 at 3.00: what is the weather in paris
        3.50 release #2
        3.50 -> thinking
        3.52 -> speaking
        7.52 -> listening
        """,
    ),
    Case(
        "a pause shorter than the soft end asks for nothing",
        Scenario((Sound(1.0, 1.6, "what is the"), Sound(1.7, 2.0, "weather in paris"))),
        SPOKEN + "6.52 -> listening",
    ),
    Case(
        "finished words are answered sooner",
        Scenario((Sound(1.0, 2.0, "what time is it"),)),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.20 take 1
        2.25 prepare #1 to 1 for 2.35: what time is it
        2.35 commit 1 at 2.00: what time is it
        2.35 release #1
        2.35 -> thinking
        2.37 -> speaking
        6.37 -> listening
        """,
    ),
    Case(
        "unfinished words are given time to go on",
        Scenario((Sound(1.0, 2.0, "i would like a coffee and"), Sound(3.0, 3.5, "a cake"))),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.20 take 1
        2.25 prepare #1 to 1 for 3.10: i would like a coffee and
        3.08 drop #1 continued
        3.70 take 1
        3.75 prepare #2 to 1 for 4.00: i would like a coffee and a cake
        4.00 commit 1 at 3.50: i would like a coffee and a cake
        4.00 release #2
        4.00 -> thinking
        4.02 -> speaking
        8.02 -> listening
        """,
    ),
    Case(
        "unfinished Chinese words too, and a question particle ends the turn soon",
        Scenario((Sound(1.0, 2.0, "我喜欢苹果和"), Sound(3.0, 3.5, "香蕉你呢好吗")), language="zh"),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.20 take 1
        2.25 prepare #1 to 1 for 3.10: 我喜欢苹果和
        3.08 drop #1 continued
        3.70 take 1
        3.75 prepare #2 to 1 for 3.85: 我喜欢苹果和香蕉你呢好吗
        3.85 commit 1 at 3.50: 我喜欢苹果和香蕉你呢好吗
        3.85 release #2
        3.85 -> thinking
        3.87 -> speaking
        7.87 -> listening
        """,
    ),
    Case(
        "with a fixed endpoint the words do not matter",
        Scenario((Sound(1.0, 2.0, "what time is it"),), settings=TurnSettings(endpoint_fixed=True)),
        SPOKEN.replace("what is the weather in paris", "what time is it") + "6.52 -> listening",
    ),
    Case(
        "silence is counted from the last loud frame, however late its end is told",
        Scenario((ASKED,), hang_s=0.3),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.30 take 1
        2.35 prepare #1 to 1 for 2.50: what is the weather in paris
        2.50 commit 1 at 2.00: what is the weather in paris
        2.50 release #1
        2.50 -> thinking
        2.52 -> speaking
        6.52 -> listening
        """,
    ),
    Case(
        "words that come after the endpoint are answered at once",
        Scenario((ASKED,), asr_s=0.4),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.20 take 1
        2.60 commit 1 at 2.00: what is the weather in paris
        2.60 prepare #1 to 1 now: what is the weather in paris
        2.60 release #1
        2.60 -> thinking
        2.72 -> speaking
        6.72 -> listening
        """,
    ),
    Case(
        "words that do not come are waited for a little, then the final ones are answered",
        Scenario((ASKED,), asr_s=None, final_s=0.2),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.20 take 1
        2.80 commit 1 at 2.00
        2.80 -> thinking
        3.00 prepare #1 to 1 now: what is the weather in paris
        3.00 release #1
        3.12 -> speaking
        7.12 -> listening
        """,
    ),
    Case(
        "final words that do not come either: the partial ones must do",
        Scenario((ASKED,), asr_s=None, final_s=None),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.20 take 1
        2.80 commit 1 at 2.00
        2.80 -> thinking
        5.80 prepare #1 to 1 now: what is the weather in paris
        5.80 release #1
        5.92 -> speaking
        9.92 -> listening
        """,
    ),
    Case(
        "no words from a dead ASR: listening again",
        Scenario((Sound(1.0, 2.0),), asr_s=None, final_s=None),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.20 take 1
        2.80 commit 1 at 2.00
        2.80 -> thinking
        5.80 -> listening
        """,
    ),
    Case(
        "a noise leaves no trace",
        Scenario((Sound(1.0, 1.5),)),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        1.70 take 1
        2.00 abandon 1
        2.00 -> listening
        """,
    ),
    Case(
        "a long voice without words is for the final to decide; empty: listening again",
        Scenario((Sound(1.0, 2.5),)),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.70 take 1
        3.00 commit 1 at 2.50
        3.00 -> thinking
        3.05 -> listening
        """,
    ),
    Case(
        "a turn without end is ended; a voice that never stops does not interrupt the answer",
        Scenario((Sound(1.0, 70.0, "one two three four five six seven"),), lasts_s=2.0),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        61.00 commit 1 at 61.00
        61.00 -> thinking
        61.05 prepare #1 to 1 now: one two three four five six
        61.05 release #1
        61.17 -> speaking
        63.17 open 2 from 63.17
        63.17 -> hearing
        70.20 take 2
        70.25 prepare #2 to 2 for 70.50: seven
        70.50 commit 2 at 70.00: seven
        70.50 release #2
        70.50 -> thinking
        70.52 -> speaking
        72.52 -> listening
        """,
        until=90,
    ),
    # ---- the person goes on before anything was audible --------------------------------------------
    Case(
        "who goes on while the reply is thought about opens a new turn; the reply is dropped",
        Scenario((ASKED, Sound(2.6, 3.3, "in france")), make_s=1.0),
        ASKED_AND_ANSWERED
        + """
        2.80 drop #1 continued
        2.80 open 2 from 2.60
        2.80 -> hearing
        3.50 take 2
        3.55 prepare #2 to 2 for 3.80: in france
        3.80 commit 2 at 3.30: in france
        3.80 release #2
        3.80 -> thinking
        4.57 -> speaking
        8.57 -> listening
        """,
    ),
    Case(
        "a voice that began before the endpoint and was told behind it counts from its first frame",
        Scenario((ASKED, Sound(2.46, 3.3, "in france")), make_s=1.0),
        ASKED_AND_ANSWERED
        + """
        2.66 drop #1 continued
        2.66 open 2 from 2.46
        2.66 -> hearing
        3.50 take 2
        3.55 prepare #2 to 2 for 3.80: in france
        3.80 commit 2 at 3.30: in france
        3.80 release #2
        3.80 -> thinking
        4.57 -> speaking
        8.57 -> listening
        """,
    ),
    Case(
        "a noise shorter than the overlap does nothing there",
        Scenario((ASKED, Sound(2.6, 2.72)), make_s=1.0, hang_s=0.05),
        ASKED_AND_ANSWERED + "3.27 -> speaking\n7.27 -> listening",
    ),
    Case(
        "a cough there does not cost the person their answer",
        Scenario((ASKED, Sound(2.6, 3.0)), make_s=1.0),
        ASKED_AND_ANSWERED
        + """
        2.80 drop #1 continued
        2.80 open 2 from 2.60
        2.80 -> hearing
        3.20 take 2
        3.50 abandon 2
        3.50 prepare #2 to 1 now: what is the weather in paris
        3.50 release #2
        3.50 -> thinking
        4.52 -> speaking
        8.52 -> listening
        """,
    ),
    Case(
        "nor a long noise whose final is empty, nor one while the final words were still on their way",
        Scenario((ASKED, Sound(3.0, 4.5)), asr_s=1.0, final_s=0.3, make_s=1.0),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.20 take 1
        2.80 commit 1 at 2.00
        2.80 -> thinking
        3.10 prepare #1 to 1 now: what is the weather in paris
        3.10 release #1
        3.20 drop #1 continued
        3.20 open 2 from 3.00
        3.20 -> hearing
        4.70 take 2
        5.30 commit 2 at 4.50
        5.30 -> thinking
        5.60 prepare #2 to 1 now: what is the weather in paris
        5.60 release #2
        6.62 -> speaking
        10.62 -> listening
        """,
    ),
    Case(
        "a cough while the final words are awaited",
        Scenario((ASKED, Sound(2.85, 3.2)), asr_s=None, final_s=1.5, make_s=1.0),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.20 take 1
        2.80 commit 1 at 2.00
        2.80 -> thinking
        3.05 open 2 from 2.85
        3.05 -> hearing
        3.40 take 2
        4.00 commit 2 at 3.20
        4.00 -> thinking
        5.50 prepare #1 to 1 now: what is the weather in paris
        5.50 release #1
        6.52 -> speaking
        10.52 -> listening
        """,
    ),
    Case(
        "typed words stay asked when a cough drops their reply, and are not entered twice",
        Scenario((Sound(2.1, 2.5),), told=((2.0, ReplyRequested("and you?")),), make_s=1.0),
        """
        2.00 prepare #1 to all now: and you?
        2.00 release #1
        2.00 -> thinking
        2.30 drop #1 continued
        2.30 open 1 from 2.10
        2.30 -> hearing
        2.70 take 1
        3.00 abandon 1
        3.00 prepare #2 to all now:
        3.00 release #2
        3.00 -> thinking
        4.02 -> speaking
        8.02 -> listening
        """,
    ),
    # ---- over an audible reply ---------------------------------------------------------------------
    Case(
        "speech over the reply pauses it after 200 ms and cuts it after 500 ms, from its first frame",
        Scenario((ASKED, Sound(4.0, 5.5, "um i meant london")), stable_lag=9),
        SPOKEN
        + """
        4.20 pause #1
        4.20 open 2 from 4.00
        4.20 -> paused
        4.50 cut #1 barge_in
        4.50 -> hearing
        5.70 take 2
        5.75 prepare #2 to 2 for 6.00: um i meant london
        6.00 commit 2 at 5.50: um i meant london
        6.00 release #2
        6.00 -> thinking
        6.02 -> speaking
        10.02 -> listening
        """,
    ),
    Case(
        "two stable words cut it sooner",
        Scenario((ASKED, Sound(4.0, 4.6, "i meant london the big city"))),
        SPOKEN
        + """
        4.20 pause #1
        4.20 open 2 from 4.00
        4.20 -> paused
        4.35 cut #1 barge_in
        4.35 -> hearing
        4.80 take 2
        4.85 prepare #2 to 2 for 5.10: i meant london the big city
        5.10 commit 2 at 4.60: i meant london the big city
        5.10 release #2
        5.10 -> thinking
        5.12 -> speaking
        9.12 -> listening
        """,
    ),
    Case(
        "two stable Chinese characters do, though there is no space between them",
        Scenario((FRAGTE, Sound(4.0, 4.6, "我想去伦敦")), language="zh"),
        ZH_SPOKEN
        + """
        4.20 pause #1
        4.20 open 2 from 4.00
        4.20 -> paused
        4.41 cut #1 barge_in
        4.41 -> hearing
        4.80 take 2
        4.85 prepare #2 to 2 for 5.10: 我想去伦敦
        5.10 commit 2 at 4.60: 我想去伦敦
        5.10 release #2
        5.10 -> thinking
        5.12 -> speaking
        9.12 -> listening
        """,
    ),
    Case(
        "a cough over the reply pauses it; it goes on when the noise has been over for 0.7 s",
        Scenario((ASKED, Sound(4.0, 4.35))),
        SPOKEN
        + """
        4.20 pause #1
        4.20 open 2 from 4.00
        4.20 -> paused
        4.55 take 2
        5.05 resume #1
        5.05 abandon 2
        5.05 -> speaking
        7.37 -> listening
        """,
    ),
    Case(
        "a click that is over before 200 ms does not even pause it",
        Scenario((ASKED, Sound(4.0, 4.14)), hang_s=0.05),
        SPOKEN + "6.52 -> listening",
    ),
    Case(
        "mm hm does not cut it",
        Scenario((ASKED, Sound(4.0, 4.35, "mm hm")), stable_lag=0),
        SPOKEN
        + """
        4.20 pause #1
        4.20 open 2 from 4.00
        4.20 -> paused
        4.55 take 2
        5.05 resume #1
        5.05 abandon 2
        5.05 -> speaking
        7.37 -> listening
        """,
    ),
    Case(
        "nor do three stable back-channels that last for longer than 500 ms",
        Scenario((ASKED, Sound(4.0, 4.75, "yeah right okay")), stable_lag=0),
        SPOKEN
        + """
        4.20 pause #1
        4.20 open 2 from 4.00
        4.20 -> paused
        4.95 take 2
        5.45 resume #1
        5.45 abandon 2
        5.45 -> speaking
        7.77 -> listening
        """,
    ),
    Case(
        "back-channels that do not end do",
        Scenario((ASKED, Sound(4.0, 5.5, "yeah yeah yeah yeah yeah yeah")), stable_lag=0),
        SPOKEN
        + """
        4.20 pause #1
        4.20 open 2 from 4.00
        4.20 -> paused
        5.00 cut #1 barge_in
        5.00 -> hearing
        5.70 take 2
        5.75 prepare #2 to 2 for 6.00: yeah yeah yeah yeah yeah yeah
        6.00 commit 2 at 5.50: yeah yeah yeah yeah yeah yeah
        6.00 release #2
        6.00 -> thinking
        6.02 -> speaking
        10.02 -> listening
        """,
    ),
    Case(
        "Chinese back-channels do not cut it",
        Scenario((FRAGTE, Sound(4.0, 4.45, "嗯对好的")), language="zh", stable_lag=0),
        ZH_SPOKEN
        + """
        4.20 pause #1
        4.20 open 2 from 4.00
        4.20 -> paused
        4.65 take 2
        5.15 resume #1
        5.15 abandon 2
        5.15 -> speaking
        7.47 -> listening
        """,
    ),
    Case(
        "a back-channel that turns into words does",
        Scenario((ASKED, Sound(4.0, 5.2, "yeah but i want london")), stable_lag=0),
        SPOKEN
        + """
        4.20 pause #1
        4.20 open 2 from 4.00
        4.20 -> paused
        4.53 cut #1 barge_in
        4.53 -> hearing
        5.40 take 2
        5.45 prepare #2 to 2 for 5.70: yeah but i want london
        5.70 commit 2 at 5.20: yeah but i want london
        5.70 release #2
        5.70 -> thinking
        5.72 -> speaking
        9.72 -> listening
        """,
    ),
    Case(
        "one stable word is enough if it says stop",
        Scenario((ASKED, Sound(4.0, 4.6, "stop talking")), stable_lag=0),
        SPOKEN
        + """
        4.20 pause #1
        4.20 open 2 from 4.00
        4.20 -> paused
        4.35 cut #1 barge_in
        4.35 -> hearing
        4.80 take 2
        4.85 prepare #2 to 2 for 5.10: stop talking
        5.10 commit 2 at 4.60: stop talking
        5.10 release #2
        5.10 -> thinking
        5.12 -> speaking
        9.12 -> listening
        """,
    ),
    Case(
        "a short word that stands when the voice has stopped cuts it",
        Scenario((ASKED, Sound(4.0, 4.3, "stop"))),
        SPOKEN
        + """
        4.20 pause #1
        4.20 open 2 from 4.00
        4.20 -> paused
        4.50 take 2
        4.55 cut #1 barge_in
        4.55 -> hearing
        4.55 prepare #2 to 2 for 4.65: stop
        4.65 commit 2 at 4.30: stop
        4.65 release #2
        4.65 -> thinking
        4.67 -> speaking
        8.67 -> listening
        """,
    ),
    Case(
        "a short Chinese word too, even if the ASR needs its time",
        Scenario((FRAGTE, Sound(4.0, 4.3, "等等")), language="zh", stable_lag=9, asr_s=0.55, lasts_s=6.0),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.20 take 1
        2.75 commit 1 at 2.00: 帮我看巴黎天气
        2.75 prepare #1 to 1 now: 帮我看巴黎天气
        2.75 release #1
        2.75 -> thinking
        2.87 -> speaking
        4.20 pause #1
        4.20 open 2 from 4.00
        4.20 -> paused
        4.50 take 2
        5.05 cut #1 barge_in
        5.05 -> hearing
        5.05 commit 2 at 4.30: 等等
        5.05 prepare #2 to 2 now: 等等
        5.05 release #2
        5.05 -> thinking
        5.17 -> speaking
        11.17 -> listening
        """,
    ),
    Case(
        "noises that keep coming: the reply goes on two seconds after the pause at the latest",
        Scenario((ASKED, *(Sound(4.0 + 0.6 * k, 4.3 + 0.6 * k) for k in range(4))), asr_s=None, lasts_s=9.0),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.20 take 1
        2.80 commit 1 at 2.00
        2.80 -> thinking
        2.85 prepare #1 to 1 now: what is the weather in paris
        2.85 release #1
        2.97 -> speaking
        4.20 pause #1
        4.20 open 2 from 4.00
        4.20 -> paused
        4.50 take 2
        5.10 take 2
        5.70 take 2
        6.20 resume #1
        6.20 abandon 2
        6.20 -> speaking
        13.97 -> listening
        """,
    ),
    Case(
        "it can be paused again afterwards",
        Scenario((ASKED, Sound(4.0, 4.3), Sound(6.0, 7.0, "no i meant london"))),
        SPOKEN
        + """
        4.20 pause #1
        4.20 open 2 from 4.00
        4.20 -> paused
        4.50 take 2
        5.00 resume #1
        5.00 abandon 2
        5.00 -> speaking
        6.20 pause #1
        6.20 open 3 from 6.00
        6.20 -> paused
        6.50 cut #1 barge_in
        6.50 -> hearing
        7.20 take 3
        7.25 prepare #2 to 3 for 7.50: no i meant london
        7.50 commit 3 at 7.00: no i meant london
        7.50 release #2
        7.50 -> thinking
        7.52 -> speaking
        11.52 -> listening
        """,
    ),
    Case(
        "a reply that had been played to its end by the pause leaves the turn to itself",
        Scenario((ASKED, Sound(6.3, 6.6, "okay")), told=((6.51, ReplyFinished(1)),), lasts_s=3.99),
        SPOKEN
        + """
        6.50 pause #1
        6.50 open 2 from 6.30
        6.50 -> paused
        6.51 -> hearing
        6.80 take 2
        6.85 prepare #2 to 2 for 6.95: okay
        6.95 commit 2 at 6.60: okay
        6.95 release #2
        6.95 -> thinking
        6.97 -> speaking
        10.96 -> listening
        """,
    ),
    Case(
        "who begins to speak just before the reply ends is heard from their first frame",
        Scenario((ASKED, Sound(6.4, 7.4, "thanks and in london"))),
        SPOKEN
        + """
        6.52 open 2 from 6.40
        6.52 -> hearing
        7.60 take 2
        7.65 prepare #2 to 2 for 7.90: thanks and in london
        7.90 commit 2 at 7.40: thanks and in london
        7.90 release #2
        7.90 -> thinking
        7.92 -> speaking
        11.92 -> listening
        """,
    ),
    # ---- the guard ---------------------------------------------------------------------------------
    Case(
        "the first two seconds of the first reply are protected, not the second reply's",
        Scenario(
            (
                ASKED,
                Sound(2.7, 3.9, "hello hello"),
                Sound(8.0, 9.0, "tell me about london"),
                Sound(9.8, 10.9, "no paris"),
            ),
            settings=TurnSettings(),
        ),
        SPOKEN
        + """
        6.52 -> listening
        8.08 open 2 from 8.00
        8.08 -> hearing
        9.20 take 2
        9.25 prepare #2 to 2 for 9.50: tell me about london
        9.50 commit 2 at 9.00: tell me about london
        9.50 release #2
        9.50 -> thinking
        9.52 -> speaking
        10.00 pause #2
        10.00 open 3 from 9.80
        10.00 -> paused
        10.30 cut #2 barge_in
        10.30 -> hearing
        11.10 take 3
        11.15 prepare #3 to 3 for 11.40: no paris
        11.40 commit 3 at 10.90: no paris
        11.40 release #3
        11.40 -> thinking
        11.42 -> speaking
        15.42 -> listening
        """,
    ),
    Case(
        "a voice that still goes on when the guard ends counts from there, and its words from the pre-roll's",
        Scenario((ASKED, Sound(3.0, 5.9, "a b c d e f g h")), settings=TurnSettings()),
        SPOKEN
        + """
        4.72 pause #1
        4.72 open 2 from 3.92
        4.72 -> paused
        4.86 cut #1 barge_in
        4.86 -> hearing
        6.10 take 2
        6.15 prepare #2 to 2 for 6.40: c d e f g h
        6.40 commit 2 at 5.90: c d e f g h
        6.40 release #2
        6.40 -> thinking
        6.42 -> speaking
        10.42 -> listening
        """,
    ),
    # ---- what the settings and flags change --------------------------------------------------------
    Case(
        "without create_response turns are committed and not answered",
        Scenario((ASKED,), create_response=False),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.20 take 1
        2.50 commit 1 at 2.00
        2.50 -> listening
        """,
    ),
    Case(
        "a reply asked for right behind such a commit waits for the final words",
        Scenario((ASKED,), create_response=False, told=((2.51, ReplyRequested("")),)),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.20 take 1
        2.50 commit 1 at 2.00
        2.50 -> listening
        2.51 -> thinking
        2.55 prepare #1 to 1 now: what is the weather in paris
        2.55 release #1
        2.67 -> speaking
        6.67 -> listening
        """,
    ),
    Case(
        "... and is made even if they were none",
        Scenario((Sound(1.0, 2.5),), create_response=False, told=((3.01, ReplyRequested("")),)),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.70 take 1
        3.00 commit 1 at 2.50
        3.00 -> listening
        3.01 -> thinking
        3.05 prepare #1 to 1 now:
        3.05 release #1
        3.17 -> speaking
        7.17 -> listening
        """,
    ),
    Case(
        "without interrupt_response a voice over the reply is heard when the reply is over",
        Scenario((ASKED, Sound(4.0, 5.0, "hm"), Sound(6.0, 7.0, "one two three")), interrupt_response=False),
        SPOKEN
        + """
        6.52 open 2 from 6.00
        6.52 -> hearing
        7.20 take 2
        7.25 prepare #2 to 2 for 7.50: one two three
        7.50 commit 2 at 7.00: one two three
        7.50 release #2
        7.50 -> thinking
        7.52 -> speaking
        11.52 -> listening
        """,
    ),
    Case(
        "push-to-talk: only the button ends a turn, and a voice over the reply cuts it after 200 ms",
        Scenario(
            (Sound(1.0, 2.0, "hello"), Sound(4.0, 5.0, "there mia"), Sound(7.0, 8.0, "mm hm")),
            told=((5.5, TurnClosed()), (8.05, TurnClosed())),
            settings=PUSH,
        ),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        5.50 commit 1 at 5.00
        5.50 -> thinking
        5.55 prepare #1 to 1 now: hello there mia
        5.55 release #1
        5.67 -> speaking
        7.20 cut #1 barge_in
        7.20 open 2 from 7.00
        7.20 -> hearing
        8.05 commit 2 at 8.05
        8.05 -> thinking
        8.10 prepare #2 to 2 now: mm hm
        8.10 release #2
        8.22 -> speaking
        12.22 -> listening
        """,
    ),
    Case(
        "push-to-talk: a turn that is never closed is ended all the same",
        Scenario((Sound(1.0, 2.0, "hello"),), settings=PUSH),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        61.00 commit 1 at 2.00
        61.00 -> thinking
        61.05 prepare #1 to 1 now: hello
        61.05 release #1
        61.17 -> speaking
        65.17 -> listening
        """,
        until=90,
    ),
    # ---- asked for from outside --------------------------------------------------------------------
    Case(
        "typed text is answered at once, an opening is spoken as it stands",
        Scenario(told=((1.0, ReplyRequested("", say="Hello, I am Mia.")), (9.0, ReplyRequested("how are you")))),
        """
        1.00 prepare #1 to all now: Hello, I am Mia.
        1.00 release #1
        1.00 -> thinking
        1.12 -> speaking
        5.12 -> listening
        9.00 prepare #2 to all now: how are you
        9.00 release #2
        9.00 -> thinking
        9.12 -> speaking
        13.12 -> listening
        """,
    ),
    Case(
        "typed text replaces an audible reply",
        Scenario((ASKED,), told=((4.0, ReplyRequested("never mind")),)),
        SPOKEN
        + """
        4.00 cut #1 replaced
        4.00 prepare #2 to all now: never mind
        4.00 release #2
        4.00 -> thinking
        4.12 -> speaking
        8.12 -> listening
        """,
    ),
    Case(
        "typed text wins over words that are being spoken, and they do not interrupt its reply",
        Scenario(
            (Sound(1.0, 6.0, "one two three four five six"),), told=((2.0, ReplyRequested("typed")),), lasts_s=3.0
        ),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.00 abandon 1
        2.00 prepare #1 to all now: typed
        2.00 release #1
        2.00 -> thinking
        2.12 -> speaking
        5.12 open 2 from 5.12
        5.12 -> hearing
        6.20 take 2
        6.25 prepare #2 to 2 for 6.50: five six
        6.50 commit 2 at 6.00: five six
        6.50 release #2
        6.50 -> thinking
        6.52 -> speaking
        9.52 -> listening
        """,
    ),
    Case(
        "typed text replaces a held reply and a paused one",
        Scenario((ASKED, Sound(4.0, 4.3)), told=((2.3, ReplyRequested("a")), (4.25, ReplyRequested("b")))),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.20 take 1
        2.25 prepare #1 to 1 for 2.50: what is the weather in paris
        2.30 drop #1 replaced
        2.30 abandon 1
        2.30 prepare #2 to all now: a
        2.30 release #2
        2.30 -> thinking
        2.42 -> speaking
        4.20 pause #2
        4.20 open 2 from 4.00
        4.20 -> paused
        4.25 cut #2 replaced
        4.25 abandon 2
        4.25 prepare #3 to all now: b
        4.25 release #3
        4.25 -> thinking
        4.37 -> speaking
        8.37 -> listening
        """,
    ),
    Case(
        "the interrupt button silences an audible reply",
        Scenario((ASKED,), told=((4.0, Interrupted()),)),
        SPOKEN + "4.00 cut #1 interrupted\n4.00 -> listening",
    ),
    Case(
        "... one that is not audible yet",
        Scenario((ASKED,), told=((2.6, Interrupted()),), make_s=1.0),
        ASKED_AND_ANSWERED + "2.60 drop #1 interrupted\n2.60 -> listening",
    ),
    Case(
        "... a paused one, whose turn goes on",
        Scenario((ASKED, Sound(4.0, 4.3)), told=((4.25, Interrupted()),)),
        SPOKEN
        + """
        4.20 pause #1
        4.20 open 2 from 4.00
        4.20 -> paused
        4.25 cut #1 interrupted
        4.25 -> hearing
        4.50 take 2
        4.80 abandon 2
        4.80 -> listening
        """,
    ),
    Case(
        "... and one over which the person has just begun to speak",
        Scenario((ASKED, Sound(4.0, 5.0, "no paris")), told=((4.15, Interrupted()),)),
        SPOKEN
        + """
        4.15 cut #1 interrupted
        4.15 open 2 from 4.00
        4.15 -> hearing
        5.20 take 2
        5.25 prepare #2 to 2 for 5.50: no paris
        5.50 commit 2 at 5.00: no paris
        5.50 release #2
        5.50 -> thinking
        5.52 -> speaking
        9.52 -> listening
        """,
    ),
    Case(
        "a turn can be closed before its silence, with its prepared reply or without",
        Scenario((ASKED, Sound(8.0, 9.0, "and in london")), told=((2.3, TurnClosed()), (9.15, TurnClosed()))),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.20 take 1
        2.25 prepare #1 to 1 for 2.50: what is the weather in paris
        2.30 commit 1 at 2.00: what is the weather in paris
        2.30 release #1
        2.30 -> thinking
        2.37 -> speaking
        6.37 -> listening
        8.08 open 2 from 8.00
        8.08 -> hearing
        9.15 commit 2 at 9.00
        9.15 -> thinking
        9.20 prepare #2 to 2 now: and in london
        9.20 release #2
        9.32 -> speaking
        13.32 -> listening
        """,
    ),
    Case(
        "closing a turn over a paused reply means it",
        Scenario((ASKED, Sound(4.0, 4.28, "no")), told=((4.3, TurnClosed()),), stable_lag=9),
        SPOKEN
        + """
        4.20 pause #1
        4.20 open 2 from 4.00
        4.20 -> paused
        4.30 cut #1 barge_in
        4.30 -> hearing
        4.30 commit 2 at 4.30
        4.30 -> thinking
        4.35 prepare #2 to 2 now: no
        4.35 release #2
        4.47 -> speaking
        8.47 -> listening
        """,
    ),
    Case(
        "a cleared turn is forgotten, and its voice opens no other",
        Scenario(
            (Sound(1.0, 3.0, "a b c d"), Sound(5.0, 6.0, "e f")), told=((2.0, TurnCleared()), (2.1, TurnCleared()))
        ),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.00 abandon 1
        2.00 -> listening
        5.08 open 2 from 5.00
        5.08 -> hearing
        6.20 take 2
        6.25 prepare #1 to 2 for 6.50: e f
        6.50 commit 2 at 6.00: e f
        6.50 release #1
        6.50 -> thinking
        6.52 -> speaking
        10.52 -> listening
        """,
    ),
    Case(
        "clearing a turn that paused a reply lets the reply go on; a held one is dropped",
        Scenario((ASKED, Sound(3.5, 4.5, "a b c d")), told=((3.75, TurnCleared()),), stable_lag=9),
        SPOKEN
        + """
        3.70 pause #1
        3.70 open 2 from 3.50
        3.70 -> paused
        3.75 resume #1
        3.75 abandon 2
        3.75 -> speaking
        6.57 -> listening
        """,
    ),
    Case(
        "clearing drops a held reply",
        Scenario((ASKED,), told=((2.3, TurnCleared()),)),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.20 take 1
        2.25 prepare #1 to 1 for 2.50: what is the weather in paris
        2.30 drop #1 cleared
        2.30 abandon 1
        2.30 -> listening
        """,
    ),
    # ---- when things go wrong ----------------------------------------------------------------------
    Case(
        "a reply that never becomes audible is given up",
        Scenario((ASKED,), silent_replies=True),
        ASKED_AND_ANSWERED + "22.50 drop #1 watchdog\n22.50 -> listening",
    ),
    Case(
        "a reply that falls silent is ended",
        Scenario((ASKED,), progress=False, lasts_s=30.0),
        SPOKEN + "14.52 cut #1 watchdog\n14.52 -> listening",
    ),
    Case(
        "a long reply is not, as long as it is heard",
        Scenario((ASKED,), lasts_s=40.0),
        SPOKEN + "42.52 -> listening",
    ),
    Case(
        "an audible reply that fails is ended, the call goes on",
        Scenario((ASKED,), told=((4.0, ReplyFailed(1, "llm_broken_off")), (4.1, ReplyRequested("", say="Sorry.")))),
        SPOKEN
        + """
        4.00 cut #1 failed
        4.00 -> listening
        4.10 prepare #2 to all now: Sorry.
        4.10 release #2
        4.10 -> thinking
        4.22 -> speaking
        8.22 -> listening
        """,
    ),
    Case(
        "a reply that fails before it is audible",
        Scenario((ASKED,), told=((2.6, ReplyFailed(1, "llm_unreachable")),), make_s=1.0),
        ASKED_AND_ANSWERED + "2.60 drop #1 failed\n2.60 -> listening",
    ),
    Case(
        "a held reply that fails is tried once more at the endpoint",
        Scenario((ASKED,), told=((2.3, ReplyFailed(1, "llm_unreachable")),)),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.20 take 1
        2.25 prepare #1 to 1 for 2.50: what is the weather in paris
        2.30 drop #1 failed
        2.50 commit 1 at 2.00: what is the weather in paris
        2.50 prepare #2 to 1 now: what is the weather in paris
        2.50 release #2
        2.50 -> thinking
        2.62 -> speaking
        6.62 -> listening
        """,
    ),
    Case(
        "a paused reply that fails leaves the turn to itself",
        Scenario((ASKED, Sound(4.0, 4.3)), told=((4.25, ReplyFailed(1, "tts_died")),)),
        SPOKEN
        + """
        4.20 pause #1
        4.20 open 2 from 4.00
        4.20 -> paused
        4.25 cut #1 failed
        4.25 -> hearing
        4.50 take 2
        4.80 abandon 2
        4.80 -> listening
        """,
    ),
    Case(
        "a lost microphone ends the turn as silence would",
        Scenario((ASKED,), told=((1.7, MicrophoneLost()),)),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        1.70 commit 1 at 1.70
        1.70 -> thinking
        1.75 prepare #1 to 1 now: what is the weather
        1.75 release #1
        1.87 -> speaking
        5.87 -> listening
        """,
    ),
    Case(
        "... of a noise over a reply, which goes on",
        Scenario((ASKED, Sound(4.0, 30.0)), told=((4.4, MicrophoneLost()),)),
        SPOKEN
        + """
        4.20 pause #1
        4.20 open 2 from 4.00
        4.20 -> paused
        4.40 resume #1
        4.40 abandon 2
        4.40 -> speaking
        6.72 -> listening
        """,
    ),
    Case(
        "... of words over a reply, which they cut",
        Scenario((ASKED, Sound(4.0, 4.7, "not paris")), told=((4.42, MicrophoneLost()),), stable_lag=9),
        SPOKEN
        + """
        4.20 pause #1
        4.20 open 2 from 4.00
        4.20 -> paused
        4.42 cut #1 barge_in
        4.42 -> hearing
        4.42 commit 2 at 4.42
        4.42 -> thinking
        4.47 prepare #2 to 2 now: not
        4.47 release #2
        4.59 -> speaking
        8.59 -> listening
        """,
    ),
    Case(
        "a lost peer ends everything: an audible reply",
        Scenario((ASKED,), told=((4.0, PeerLost()),)),
        SPOKEN + "4.00 cut #1 peer_lost\n4.00 -> listening",
    ),
    Case(
        "... a held one with its turn",
        Scenario((ASKED,), told=((2.3, PeerLost()),)),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.20 take 1
        2.25 prepare #1 to 1 for 2.50: what is the weather in paris
        2.30 drop #1 peer_lost
        2.30 abandon 1
        2.30 -> listening
        """,
    ),
    Case(
        "... a paused one with its turn",
        Scenario((ASKED, Sound(4.0, 4.3)), told=((4.25, PeerLost()),)),
        SPOKEN
        + """
        4.20 pause #1
        4.20 open 2 from 4.00
        4.20 -> paused
        4.25 cut #1 peer_lost
        4.25 abandon 2
        4.25 -> listening
        """,
    ),
    Case(
        "... a turn whose final words are awaited",
        Scenario((ASKED,), asr_s=None, final_s=1.0, told=((3.0, PeerLost()),)),
        """
        1.08 open 1 from 1.00
        1.08 -> hearing
        2.20 take 1
        2.80 commit 1 at 2.00
        2.80 -> thinking
        3.00 -> listening
        """,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_scenario(case: Case) -> None:
    assert [line.rstrip() for line in case.scenario.run(case.until).timeline()] == lines(case.expected)


# ---- one event at a time -----------------------------------------------------------------------------


class Call:
    """A TurnTaker that is handed single events, and a Witness beside it."""

    def __init__(self, settings: TurnSettings = UNGUARDED, language: str = "en") -> None:
        self.taker = TurnTaker(settings, language, 0.0)
        self.witness = Witness()
        self.now = 0.0

    def at(self, now: float, event: Event | None = None) -> list[str]:
        """Orders until `now`, in words; every deadline on the way is kept."""
        said: list[str] = []
        while (deadline := self.taker.deadline()) is not None and deadline < now:
            said += self._check(self.taker.tick(deadline), deadline)
        self.now = now
        if event is None:
            return said + self._check(self.taker.tick(now), now)
        self.witness.saw(event)
        return said + self._check(self.taker.handle(event, now), now)

    def _check(self, orders: list, now: float) -> list[str]:
        self.witness.check(orders, self.taker, now)
        return [in_words(order) for order in orders]

    def held(self, text: str = "what is the weather") -> "Call":
        """... until a reply to this is held: spoken from 1 to 2 s, the endpoint is at 2.5 s."""
        self.at(1.0, VoiceStarted(1.0))
        self.at(2.1, VoiceStopped(2.0))
        self.at(2.2)
        assert self.at(2.3, ProvisionalHeard(1, text)) == [f"prepare #1 to 1 for 2.50: {text}"]
        return self

    def speaking(self) -> "Call":
        """... until that reply is audible, from 2.6 s on."""
        self.held().at(2.6, ReplyStarted(1))
        assert self.taker.state is State.SPEAKING
        return self


def test_nothing_is_due_before_anything_happened() -> None:
    call = Call()
    assert call.taker.deadline() is None
    assert call.taker.state is State.LISTENING
    assert call.at(3600.0) == []


def test_the_same_words_heard_again_are_not_prepared_again() -> None:
    assert Call().held().at(2.4, ProvisionalHeard(1, "What is the weather?")) == []


def test_other_words_heard_in_the_same_pause_are() -> None:
    call = Call().held()
    assert call.at(2.4, ProvisionalHeard(1, "what is the whether in")) == [
        "drop #1 reheard",
        "prepare #2 to 1 for 2.50: what is the whether in",
    ]
    assert call.at(2.5)[0] == "commit 1 at 2.00: what is the whether in"


def test_an_answer_that_comes_when_the_person_speaks_again_is_not_used() -> None:
    call = Call()
    call.at(1.0, VoiceStarted(1.0))
    call.at(2.1, VoiceStopped(2.0))
    assert call.at(2.2) == ["take 1"]
    call.at(2.3, VoiceStarted(2.25))
    assert call.at(2.35, ProvisionalHeard(1, "what is")) == []
    call.at(3.1, VoiceStopped(3.0))
    assert call.at(3.15, ProvisionalHeard(1, "what is")) == []
    assert call.at(3.2) == ["take 1"]


def test_partial_words_keep_a_turn_alive_though_the_provisional_is_empty() -> None:
    call = Call()
    call.at(1.0, VoiceStarted(1.0))
    call.at(1.5, PartialHeard(1, "hello", 0))
    call.at(1.6, VoiceStopped(1.5))
    call.at(1.7)
    call.at(1.8, ProvisionalHeard(1, ""))
    assert call.at(2.1) == ["commit 1 at 1.50", "-> thinking"]


def test_the_final_of_a_turn_that_is_answered_already_changes_nothing() -> None:
    call = Call().held()
    call.at(2.5)
    assert call.at(2.55, FinalHeard(1, "what is the weather today")) == []
    assert call.at(2.6, ReplyStarted(1)) == ["-> speaking"]
    assert call.at(2.7, FinalHeard(1, "something else")) == []


def test_but_it_corrects_what_is_prepared_anew() -> None:
    call = Call().held()
    call.at(2.6, VoiceStarted(2.55))
    call.at(2.7, FinalHeard(1, "what is the weather today"))
    assert call.at(2.8)[:2] == ["drop #1 continued", "open 2 from 2.55"]
    call.at(3.0, VoiceStopped(2.9))
    call.at(3.2, ProvisionalHeard(2, ""))
    assert call.at(3.5)[-3:] == ["prepare #2 to 1 now: what is the weather today", "release #2", "-> thinking"]


def test_an_earlier_turn_whose_final_turns_out_empty_is_not_taken_up_again() -> None:
    call = Call()
    call.at(1.0, VoiceStarted(1.0))
    call.at(3.1, VoiceStopped(3.0))
    call.at(3.3, ProvisionalHeard(1, ""))
    assert call.at(3.5)[0] == "commit 1 at 3.00"
    call.at(3.6, VoiceStarted(3.5))
    assert call.at(3.75)[0] == "open 2 from 3.50"
    call.at(3.8, FinalHeard(1, ""))
    call.at(4.1, VoiceStopped(4.0))
    call.at(4.3, ProvisionalHeard(2, ""))
    assert call.at(4.6) == ["abandon 2", "-> listening"]


def test_words_over_a_reply_that_nothing_became_of_do_not_lose_the_reply_to_a_late_answer() -> None:
    call = Call().speaking()
    call.at(4.0, VoiceStarted(4.0))
    call.at(4.4, VoiceStopped(4.3))
    assert call.at(5.4)[-3:] == ["resume #1", "abandon 2", "-> speaking"]
    assert call.at(5.5, ProvisionalHeard(2, "stop")) == []
    assert call.at(5.6, PartialHeard(2, "stop now", 2)) == []


def test_unstable_words_do_not_cut() -> None:
    call = Call().speaking()
    call.at(4.0, VoiceStarted(4.0))
    assert call.at(4.2)[-1] == "-> paused"
    assert call.at(4.3, PartialHeard(2, "i want it", 1)) == []
    assert call.at(4.4, PartialHeard(2, "i want it", 2)) == ["cut #1 barge_in", "-> hearing"]


def test_late_and_unknown_numbers_are_ignored() -> None:
    call = Call().speaking()
    for stranger in (
        ReplyStarted(7),
        ReplyFinished(7),
        ReplyFailed(0, "x"),
        ReplyProgressed(7),
        ReplyPrepared(1),
        ReplyStarted(1),
        ProvisionalHeard(1, "old"),
        ProvisionalHeard(9, "never"),
        PartialHeard(9, "never heard", 2),
        FinalHeard(9, "never"),
        VoiceStopped(2.0),
        TurnClosed(),
        TurnCleared(),
    ):
        assert call.at(3.0, stranger) == []
    assert call.taker.state is State.SPEAKING
    assert call.at(4.0, ReplyFinished(1)) == ["-> listening"]
    assert call.at(4.1, ReplyFinished(1)) == []
    assert call.at(4.2, Interrupted()) == []


def test_a_reply_that_turned_out_empty() -> None:
    call = Call().held()
    call.at(2.5)
    assert call.at(2.6, ReplyFinished(1)) == ["-> listening"]


def test_the_interrupt_button_leaves_a_turn_that_is_being_spoken_alone() -> None:
    call = Call().held()
    assert call.at(2.4, Interrupted()) == []
    assert call.at(2.5)[-1] == "-> thinking"


def test_progress_keeps_a_reply_alive() -> None:
    call = Call().speaking()
    for second in range(3, 40):
        assert call.at(float(second), ReplyProgressed(1)) == []
    assert call.at(51.1) == ["cut #1 watchdog", "-> listening"]


def test_a_pause_does_not_count_as_a_gap() -> None:
    settings = TurnSettings(guard_s=0.0, gap_max_s=1.5)
    call = Call(settings)
    call.held().at(2.6, ReplyStarted(1))
    call.at(3.0, VoiceStarted(3.0))
    call.at(3.4, VoiceStopped(3.3))
    assert "resume #1" in call.at(4.5)
    assert call.taker.state is State.SPEAKING
    assert call.at(6.0) == ["cut #1 watchdog", "-> listening"]


def test_a_back_channel_over_a_reply_that_is_interrupted_by_the_button_becomes_a_turn() -> None:
    call = Call().speaking()
    call.at(4.0, VoiceStarted(4.0))
    call.at(4.4, VoiceStopped(4.3))
    assert call.at(4.5) == ["take 2"]
    assert call.at(4.6, ProvisionalHeard(2, "okay")) == []
    assert call.at(4.62, Interrupted()) == ["cut #1 interrupted", "-> hearing", "prepare #2 to 2 for 4.65: okay"]


def test_silence_does_not_begin_before_its_turn() -> None:
    call = Call()
    call.at(1.0, VoiceStarted(1.0))
    call.at(1.5, ReplyRequested("typed"))  # from here on the voice belongs to no turn
    call.at(1.6, ReplyStarted(1))
    assert call.at(3.0, ReplyFinished(1)) == ["open 2 from 3.00", "-> hearing"]
    assert call.at(3.1, VoiceStopped(2.9)) == []
    assert call.taker.deadline() == pytest.approx(3.2)


def test_a_voice_that_outlasts_the_button_opens_no_turn() -> None:
    call = Call(PUSH)
    call.at(1.0, VoiceStarted(1.0))
    assert call.at(2.0, TurnClosed()) == ["commit 1 at 2.00", "-> thinking"]
    assert call.at(2.1, FinalHeard(1, "")) == ["-> listening"]
    call.at(2.2, VoiceStopped(2.05))
    assert call.at(3.1, VoiceStarted(3.0)) == ["open 2 from 3.00", "-> hearing"]


def test_settings_can_change_in_a_call() -> None:
    call = Call()
    call.at(1.0, VoiceStarted(1.0))
    call.taker.configure(msgspec.structs.replace(UNGUARDED, endpoint_s=2.0, soft_end_s=1.0))
    call.at(2.1, VoiceStopped(2.0))
    assert call.taker.deadline() == pytest.approx(3.0)
    call.at(3.0)
    assert call.at(3.1, ProvisionalHeard(1, "we shall see it")) == ["prepare #1 to 1 for 4.00: we shall see it"]


def test_push_to_talk_set_while_a_reply_is_held_leaves_it_to_the_button() -> None:
    call = Call().held()
    call.taker.configure(PUSH)
    assert call.at(10.0) == []
    assert call.at(10.1, TurnClosed()) == ["commit 1 at 2.00: what is the weather", "release #1", "-> thinking"]


def test_replies_switched_off_while_one_is_held() -> None:
    call = Call().held()
    call.taker.create_response = False
    assert call.at(2.5) == ["drop #1 unwanted", "commit 1 at 2.00", "-> listening"]


def test_interruption_switched_on_while_the_person_speaks() -> None:
    call = Call()
    call.taker.interrupt_response = False
    call.speaking().at(4.0, VoiceStarted(4.0))
    assert call.at(4.6) == []
    call.taker.interrupt_response = True
    assert call.at(4.6)[-1] == "-> hearing", "it was confirmed long ago"


def test_a_clock_that_seems_to_go_back_does_no_harm() -> None:
    call = Call().held()
    call.taker.handle(VoiceStarted(2.4), 2.45)
    assert call.taker.tick(1.0) == []
    assert [in_words(order) for order in call.taker.handle(VoiceStopped(9.0), 2.0)] == []
    assert call.taker.deadline() == pytest.approx(2.45 + 0.2)


def test_a_wake_up_that_comes_late_does_everything_that_is_due() -> None:
    call = Call()
    call.at(1.0, VoiceStarted(1.0))
    call.at(2.1, VoiceStopped(2.0))
    assert [in_words(order) for order in call.taker.tick(9.0)] == ["take 1"]
    assert call.taker.deadline() == pytest.approx(9.0 + UNGUARDED.provisional_wait_s)


def test_who_goes_on_is_believed_though_the_wake_up_was_late() -> None:
    call = Call().held()
    orders = call.taker.handle(VoiceStarted(2.45), 2.9)
    assert [in_words(order) for order in orders] == ["drop #1 continued"]


@pytest.mark.parametrize(
    "wrong",
    [{"mode": "shout"}, {"overlap_s": -0.1}, {"endpoint_s": 1e9}, {"turn_max_s": 0.5}, {"confirm_units": 0}],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError, match=next(iter(wrong))):
        msgspec.convert(wrong, TurnSettings)


# ---- invariants --------------------------------------------------------------------------------------

SECONDS = st.floats(0.0, 3.0, allow_nan=False)
TEXTS = st.sampled_from(
    ["", "mm hm", "stop", "what time is it", "i like it and", "one two three", "嗯", "等一下", "我想"]
)
NUMBERS = st.integers(0, 6)
EVENTS = st.one_of(
    st.builds(VoiceStarted, SECONDS),
    st.builds(VoiceStopped, SECONDS),
    st.builds(PartialHeard, NUMBERS, TEXTS, st.integers(0, 5)),
    st.builds(ProvisionalHeard, NUMBERS, TEXTS),
    st.builds(FinalHeard, NUMBERS, TEXTS),
    st.builds(ReplyPrepared, NUMBERS),
    st.builds(ReplyStarted, NUMBERS),
    st.builds(ReplyStarted, NUMBERS),
    st.builds(ReplyProgressed, NUMBERS),
    st.builds(ReplyFinished, NUMBERS),
    st.builds(ReplyFailed, NUMBERS, st.just("x")),
    st.builds(ReplyRequested, TEXTS, st.sampled_from(["", "Hello."])),
    st.sampled_from([Interrupted(), TurnClosed(), TurnCleared(), MicrophoneLost(), PeerLost()]),
)
SETTINGS = st.sampled_from(
    [
        TurnSettings(),
        UNGUARDED,
        PUSH,
        TurnSettings(endpoint_fixed=True, guard_s=0.0),
        TurnSettings(
            soft_end_s=0.0, endpoint_s=0.0, endpoint_min_s=0.0, endpoint_max_s=0.0, overlap_s=0.0, confirm_s=0.0,
            resume_s=0.0, resume_quiet_s=0.0, guard_s=0.0, turn_max_s=1.0, think_max_s=0.0, gap_max_s=0.0,
            preroll_s=0.0, provisional_wait_s=0.0, final_wait_s=0.0, backchannel_s=0.0,
        ),
    ]
)  # fmt: skip


def _aimed(event: Event, now: float, turn: int, generation: int) -> Event:
    """Its times lie in the recent past; its numbers are mostly those of now, sometimes just over or never given."""
    if isinstance(event, VoiceStarted | VoiceStopped):
        return type(event)(now - event.at / 3)
    if isinstance(event, PartialHeard | ProvisionalHeard | FinalHeard):
        return _renumbered(event, "turn", turn)
    if isinstance(event, ReplyPrepared | ReplyStarted | ReplyProgressed | ReplyFinished | ReplyFailed):
        return _renumbered(event, "generation", generation)
    return event


def _renumbered(event: Event, field: str, latest: int) -> Event:
    chosen = getattr(event, field)
    return replace(event, **{field: {0: latest + 1, 1: latest - 1}.get(chosen, latest)})


@settings(max_examples=400, deadline=None)
@given(
    SETTINGS,
    st.sampled_from(["en", "zh"]),
    st.lists(st.tuples(st.floats(0.0, 1.5), EVENTS, st.booleans(), st.integers(0, 60)), max_size=60),
)
def test_no_sequence_of_events_breaks_it(
    chosen: TurnSettings, language: str, steps: list[tuple[float, Event, bool, int]]
) -> None:
    call = Call(chosen, language)
    taker, witness = call.taker, call.witness
    for wait_s, event, punctual, switch in steps:
        now = call.now + wait_s
        if punctual:
            call.at(now)
        if switch == 1:
            taker.create_response = not taker.create_response
        elif switch == 2:
            taker.interrupt_response = not taker.interrupt_response
        elif switch == 3:
            taker.configure(PUSH if taker.settings.mode == "hands_free" else chosen)
        call.now = now
        aimed = _aimed(event, now, len(witness.turns), witness.replies)
        witness.saw(aimed)
        call._check(taker.handle(aimed, now), now)
    # Then nobody says anything any more, and no answer comes from anywhere.
    call.now += 0.1
    call._check(taker.handle(VoiceStopped(call.now), call.now), call.now)
    for _ in range(40):
        deadline = taker.deadline()
        if deadline is None:
            break
        call._check(taker.tick(deadline), deadline)
    assert taker.state is State.LISTENING
    assert taker.deadline() is None
    assert witness.reply is None
    assert "open" not in witness.turns.values()


SENTENCES = {
    "en": [
        "what time is it",
        "i like music and",
        "tell me about london",
        "okay",
        "mm hm",
        "stop",
        "no i meant paris",
    ],
    "zh": ["你叫什么名字", "我喜欢音乐和", "帮我看天气", "好的", "嗯", "等一下", "不是我说北京"],
}


@pytest.mark.parametrize("seed", range(24))
def test_half_an_hour_of_talk_coughs_and_slow_machines(seed: int) -> None:
    chance = random.Random(seed)
    language = chance.choice(["en", "zh"])
    sounds: list[Sound] = []
    at = 1.0
    while at < 1800.0:
        at += chance.choice([0.05, 0.2, 0.4, 0.7, 1.5, 4.0, 9.0]) * (0.5 + chance.random())
        length = chance.choice([0.1, 0.25, 0.4, 0.8, 1.6, 3.0])
        words = chance.choice(SENTENCES[language]) if chance.random() < 0.6 else ""
        sounds.append(Sound(at, at + length, words))
        at += length
    sounds.append(Sound(1850.0, 1851.0, chance.choice(SENTENCES[language][:3])))
    told = tuple(
        (
            chance.uniform(0, 1800),
            chance.choice([Interrupted(), ReplyRequested("hello"), TurnClosed(), MicrophoneLost()]),
        )
        for _ in range(20)
    )
    call = Scenario(
        tuple(sounds),
        told=told,
        language=language,
        settings=chance.choice([TurnSettings(), UNGUARDED, TurnSettings(endpoint_fixed=True)]),
        asr_s=chance.choice([0.02, 0.1, 0.35, 0.7]),
        final_s=chance.choice([0.02, 0.2, 1.0]),
        make_s=chance.choice([0.05, 0.4, 1.5]),
        lasts_s=chance.choice([1.0, 4.0, 12.0]),
        hang_s=chance.choice([0.06, 0.1, 0.16]),
    ).run(1900.0)
    assert call.taker.state is State.LISTENING, "everything has been said"
    kinds = {type(order) for _, order in call.orders}
    assert {OpenTurn, CommitTurn, TakeProvisional, PrepareReply, ReleaseReply, ChangeState} <= kinds
    last = max(turn for turn, became in call.witness.turns.items() if became == "committed")
    answered = [order for _, order in call.orders if isinstance(order, PrepareReply)][-1]
    assert answered.turn == last, "the last thing that was said has its answer"
    assert call.states[-2][1] is State.SPEAKING
    for (since, state), (until, _) in zip(call.states, call.states[1:], strict=False):
        if state is State.PAUSED:
            assert until - since <= 2.0 + 1.0, "a paused reply goes on or is cut within resume_s and one long mm hm"


def test_the_soak_sees_every_order() -> None:
    """Guards the test above against going blind."""
    chance = random.Random(7)
    sounds, at = [], 0.0
    for _ in range(400):
        at += chance.uniform(0.2, 4.0)
        sounds.append(Sound(at, at + chance.uniform(0.2, 1.2), chance.choice(["", "mm hm", "one two three four"])))
        at = sounds[-1].until
    call = Scenario(tuple(sounds), make_s=0.3).run(at + 30.0)
    seen = {type(order) for _, order in call.orders}
    assert seen == {
        AbandonTurn, ChangeState, CommitTurn, CutReply, DropReply, OpenTurn, PauseReply, PrepareReply, ReleaseReply,
        ResumeReply, TakeProvisional,
    }  # fmt: skip
