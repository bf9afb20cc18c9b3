"""Turns as they are spoken over a microphone: finished, broken off, with a pause inside, or over a reply.

flite says them on the spot, at several levels and over several noises. There are two sets that share no sentence, no
speaker and no random number: `tuning` is for looking at, `judged` for figures. `people` are the recordings of
Debian's pocketsphinx-testdata, whole, and with a pause between two of their words.
"""

import itertools
import subprocess
import tempfile
import wave
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.core.media import MIC_FRAME_SAMPLES, MIC_RATE

Pcm = NDArray[np.int16]
Sound = NDArray[np.float32]

LEAD_S, TAIL_S = 1.2, 3.0  # of noise before and behind the words
PAUSES_S = (0.3, 0.45, 0.6, 0.75, 0.9, 1.05, 1.2)
SPEECH_DBFS = (-18.0, -24.0, -30.0, -36.0)
NOISES = (("quiet", -75.0), ("hiss", -52.0), ("hum", -46.0), ("fan", -48.0), ("keyboard", -45.0), ("voices", -58.0))
KINDS = ("paused",) * 9 + ("finished",) * 6 + ("unfinished",) * 2 + ("backchannel",) * 3
"""of twenty turns"""


@dataclass(frozen=True)
class Texts:
    """What is said, and by which of flite's voices."""

    voices: tuple[str, ...]
    """"slt*1.08" is slt as somebody else: 8 % higher and faster"""
    finished: tuple[str, ...]
    paused: tuple[str, ...]
    """with a bar where the speaker hesitates, or breaks off"""
    backchannels: tuple[str, ...]
    seed: int
    turns: int
    """how many there are"""


FIRST = Texts(
    voices=("slt", "kal16"),
    seed=7,
    turns=120,
    finished=(
        "what time is it",
        "my name is arthur",
        "i would like to book a table for two people",
        "how old are you",
        "thank you very much",
        "can you help me with my homework",
        "where is the nearest station",
        "tell me a story about a small dragon",
        "no i have never been there",
        "what is the capital of france",
        "i live in a little house by the sea",
        "how do you make pancakes",
        "yes please",
        "good morning",
        "i am looking for a present for my brother",
        "turn the music down a little",
        "we arrived on tuesday evening",
        "what did you have for breakfast",
        "the last bus leaves at eleven",
        "could you say that again please",
        "that was the best film i have ever seen",
        "how much does the green one cost",
        "i do not like the cold",
        "please remind me to call my mother",
    ),
    paused=(
        "i would like to book a table for | two people",
        "when i was in london i saw a | very old bridge",
        "tomorrow morning i have to go to | the dentist",
        "could you tell me how far it is | to the station",
        "my sister and her husband | are coming for dinner on friday",
        "first we went to the | museum by the river",
        "if it rains this afternoon we | will stay at home and read",
        "the thing that i like most about | this town is the market",
        "i think we should | leave at seven",
        "i wanted to ask you whether | the shop is open on sunday",
        "please send the letter to my | office in the city",
        "she said that the train was late because | of the snow",
        "the first one is | smaller than the others",
        "after the meeting with the doctor i | felt a lot better",
        "i need two tickets for | the show and a program",
        "it was the second | house on the right",
        "you should think about it for | a moment",
        "in my opinion the book is better than | the film",
        "we have bread and butter and | some cheese from the farm",
        "as far as i know nobody lives | there any more",
        "my phone number is five five two | three seven one nine",
        "he opened the | door and looked into the garden",
        "on the way home from work i bought | some flowers",
        "i would like to know if | there is a bank around here",
    ),
    backchannels=("yeah", "okay", "uh huh", "mm hmm", "right", "i see", "really"),
)
SECOND = Texts(
    voices=("rms", "awb"),
    seed=20261124,
    turns=120,
    finished=(
        "where did you grow up",
        "i work in a bank",
        "what is your favourite food",
        "it is raining again today",
        "can you sing me a song",
        "i have two brothers and a sister",
        "that sounds like a great idea",
        "how far away is the moon",
        "let's play a game",
        "i am feeling a little tired",
        "who wrote this book",
        "no thank you",
        "please speak a bit more slowly",
        "my train was an hour late",
        "do you like music",
        "i don't agree with that",
        "what should i cook tonight",
        "we watched the football match last night",
        "is it going to snow tomorrow",
        "i forgot my umbrella at the office",
        "that is exactly what i meant",
        "how do i get to the airport",
        "he plays the piano very well",
        "tell me something funny",
        "i had eggs for breakfast",
        "when does the museum open",
        "it costs about twenty dollars",
        "i am learning spanish",
        "what do you know about whales",
        "yes of course",
        "nice to meet you",
        "you are very kind",
        "i would love to visit japan",
        "stop the timer please",
        "why is the sky blue",
        "she is my best friend",
    ),
    paused=(
        "can you recommend a good | restaurant near the harbour",
        "i was wondering if you could | explain how this works",
        "yesterday i met an old friend | from school at the airport",
        "we need to buy some milk and | a loaf of bread",
        "the problem with my computer is | that it keeps turning itself off",
        "my favourite season is | autumn because of the colours",
        "let's talk about | something else",
        "what would you do if | you won a million dollars",
        "i've been learning to play the | guitar for two years",
        "next summer we are going to | travel through italy",
        "is there any way to | change my password",
        "he told me that he | never wanted to come back",
        "for my birthday i got a | new bicycle and a helmet",
        "do you think that people will | live on mars one day",
        "on saturday | we usually go swimming in the lake",
        "the old man next door | feeds the birds every morning",
        "i would rather | stay here tonight",
        "when the children are asleep | i read a book",
        "could you give me the recipe for | that chocolate cake",
        "i am calling about the | apartment on green street",
        "it depends on how much | money we can spend",
        "please turn off the lights in the | kitchen before you leave",
        "in the end they decided | to sell the company",
        "there were about | fifty people at the party",
        "i can't remember where i | put my glasses",
        "the doctor said i should | drink more water",
        "all of my friends | have moved to other cities",
        "what is the difference between | a frog and a toad",
        "if you have time tomorrow | we could go for a walk",
        "she works as a | nurse in the hospital downtown",
        "a few weeks ago | my brother started a new job",
        "how long does it take to | fly from here to tokyo",
        "i think the best way is | to ask her directly",
        "tell me more about the | history of this castle",
        "my account number is four four one | nine zero two",
        "for dinner i would like | some soup and a salad",
    ),
    backchannels=("sure", "oh okay", "mm hmm", "yes", "wow", "all right", "got it"),
)
THIRD = Texts(
    voices=("slt*1.08", "slt*0.93", "rms*1.1", "rms*0.94", "awb*1.07", "awb*0.92", "kal16*0.93"),
    seed=1203,
    turns=240,
    finished=(
        "what is the tallest mountain in the world",
        "i grew up on a farm",
        "can you play some jazz",
        "my cat sleeps all day",
        "do you have any plans for tonight",
        "we moved here three years ago",
        "it takes about an hour",
        "who is your favourite singer",
        "i would rather stay at home",
        "that is not what i asked",
        "please turn off the radio",
        "how many people live in canada",
        "i lost my keys yesterday",
        "she speaks four languages",
        "is this seat taken",
        "let me tell you a secret",
        "the soup is too salty",
        "what happened to your car",
        "i really enjoyed the concert",
        "we should meet again soon",
        "good evening",
        "yes i think so",
        "how was your weekend",
        "it was nice talking to you",
        "i need a new pair of shoes",
        "when is your birthday",
        "he never answers his phone",
        "could you open the window",
        "i am allergic to peanuts",
        "what colour is the door",
    ),
    paused=(
        "i was thinking about | a trip to norway",
        "the reason i am calling is that | my order has not arrived",
        "could you help me find a | cheap hotel near the beach",
        "my grandmother used to | bake bread every sunday",
        "we had to wait for | almost two hours",
        "there is something | i wanted to tell you",
        "last night i watched a film about | a man who lives on an island",
        "have you ever been to | the north of scotland",
        "if i were you i would | talk to your boss first",
        "the new teacher is | very strict but fair",
        "after lunch | we could visit the gallery",
        "my neighbour has a dog that | barks the whole night",
        "i usually get up at | half past six",
        "how do i change the | language of the menu",
        "the meeting starts | at a quarter to nine",
        "to be honest | i do not remember his name",
        "it would be great if you could | send me the address",
        "most of the houses | in this street are very old",
        "i bought these shoes because | they were on sale",
        "when we arrived at the station | the train had already left",
        "what would be a good present for | a ten year old girl",
        "she asked me if i wanted to | join the choir",
        "please put the books back | on the shelf by the window",
        "he has been working on his | first novel since january",
        "one of my friends | plays in a band",
        "i can only come | on thursday or friday",
        "the bus to the airport leaves from | the other side of the square",
        "do you know whether they | sell stamps in here",
        "my code is seven three | eight zero five",
        "we are looking for a flat with | two bedrooms and a balcony",
    ),
    backchannels=("yeah", "oh i see", "mm hm", "okay", "sure", "that makes sense", "right"),
)
SETS = {"tuning": (FIRST, SECOND), "judged": (THIRD,)}

RECORDINGS = Path("/usr/share/pocketsphinx/test/data")  # Debian's pocketsphinx-testdata
READ = {
    "librivox/sense_and_sensibility_01_austen_64kb-0870": "and mister john dashwood had | then leisure to | consider "
    "| how much there might be prudently in his power | to do for them",
    "librivox/sense_and_sensibility_01_austen_64kb-0880": "he was not an | ill disposed young man",
    "librivox/sense_and_sensibility_01_austen_64kb-0890": "unless to be rather cold hearted | and rather selfish is "
    "to be | ill disposed",
    "librivox/sense_and_sensibility_01_austen_64kb-0920": "had he married | a more a amiable woman | he might have "
    "been made still | more respectable than he was",
    "librivox/sense_and_sensibility_01_austen_64kb-0930": "he might even have | been made | amiable himself",
    "cards/001": "ten of | clubs",
    "cards/002": "four queen of clubs",
    "cards/003": "seven of | clubs",
    "cards/004": "five five",
    "cards/005": "eight of spades | four of clubs | seven of hearts",
}
"""people reading aloud; bars where a pause is put in, one at a time"""


@dataclass(frozen=True)
class Turn:
    """One spoken turn."""

    number: int
    kind: str
    """finished, paused, unfinished or backchannel"""
    about: dict[str, object]
    pcm: Pcm
    first_s: float
    """the beginning of its first word"""
    last_s: float
    """the end of its last word, from the beginning of `pcm`"""
    known: list[tuple[float, str]]
    """what has been said by when"""

    def words(self, now_s: float) -> str:
        """What has been said by then, the words spread evenly over each part."""
        began_s, before = self.first_s, ""
        for end_s, text in self.known:
            if now_s < end_s:
                more = text.removeprefix(before).split()
                share = max(0.0, (now_s - began_s) / max(end_s - began_s, 0.01))
                return " ".join([*before.split(), *more[: int(share * len(more))]])
            began_s, before = end_s, text
        return before

    def frames(self) -> list[bytes]:
        count = self.pcm.size // MIC_FRAME_SAMPLES
        return [row.tobytes() for row in self.pcm[: count * MIC_FRAME_SAMPLES].reshape(count, MIC_FRAME_SAMPLES)]


@cache
def say(voice: str, text: str) -> Sound:
    """(n,): as flite says it, without its silence at both ends; peak 1. Raises OSError if there is no flite."""
    if "*" in voice:
        voice, _, faster = voice.partition("*")
        sound = say(voice, text)
        at = np.arange(0, sound.size - 1, float(faster))
        return np.asarray(np.interp(at, np.arange(sound.size), sound), np.float32)
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", file.name], check=True, timeout=60)
        with wave.open(file.name) as recording:
            assert (recording.getframerate(), recording.getnchannels()) == (MIC_RATE, 1)
            sound = np.frombuffer(recording.readframes(recording.getnframes()), np.int16).astype(np.float32)
    sound /= np.abs(sound).max()
    loud = np.flatnonzero(np.abs(sound) > 0.02)
    return sound[max(0, loud[0] - 160) : loud[-1] + 160]


@cache
def phones(voice: str, text: str) -> list[float]:
    """When each of its phones ends, in seconds from flite's first sample, silences left out."""
    voice, _, faster = voice.partition("*")
    told = subprocess.run(
        ["flite", "-voice", voice, "-t", text, "-psdur", "-o", "none"], check=True, timeout=60, capture_output=True
    )
    pairs = (phone.split(":") for phone in told.stdout.decode().split())
    return [float(pair[-1]) / float(faster or 1) for pair in pairs if pair[0] != "pau"]


def split(voice: str, first: str, second: str) -> tuple[Sound, Sound]:
    """One sentence in two, between two of its words: the melody of the first part does not know of the pause."""
    whole = f"{first} {second}"
    ends = phones(voice, whole)
    sound = say(voice, whole)
    # The times count from flite's own silence on, which `say` left out.
    offset_s = sound.size / MIC_RATE - ends[-1]
    cut = round((ends[len(phones(voice, first)) - 1] + offset_s) * MIC_RATE)
    return faded(sound[:cut], sound[cut:])


def faded(before: Sound, behind: Sound) -> tuple[Sound, Sound]:
    """Without a click where they were cut apart."""
    before, behind = before.copy(), behind.copy()
    if behind.size:
        ramp = np.linspace(1, 0, 160, dtype=np.float32)
        before[-160:] *= ramp
        behind[:160] *= ramp[::-1]
    return before, behind


def noise(kind: str, dbfs: float, samples: int, texts: Texts, rng: np.random.Generator) -> Sound:
    """(samples,) of that RMS level."""
    white = rng.standard_normal(samples).astype(np.float32)
    time = np.arange(samples) / MIC_RATE
    if kind == "hum":
        made = sum(np.sin(2 * np.pi * 50 * k * time) / k for k in (1, 2, 3, 5)) + 0.05 * white
    elif kind == "fan":  # brown, and breathing slowly
        made = np.cumsum(white)
        made = made - np.convolve(made, np.ones(800) / 800, "same")
        made = made * (1 + 0.3 * np.sin(2 * np.pi * 0.7 * time))
    elif kind == "keyboard":
        made = 0.02 * white
        for at in rng.integers(0, max(1, samples - 400), max(1, samples // 4000)):
            length = min(400, samples - at)
            made[at : at + length] += rng.standard_normal(length) * np.exp(-np.arange(length) / 60)
    elif kind == "voices":  # people far away: several at once, backwards
        made = 0.02 * white
        for i in range(4):
            said = texts.finished[(7 * i + int(rng.integers(20))) % len(texts.finished)]
            row = np.tile(say(texts.voices[i % len(texts.voices)], said)[::-1], 12)
            made = made + np.roll(np.resize(row, samples), int(rng.integers(samples)))
    else:
        made = white
    made = np.asarray(made, np.float32)
    return np.asarray(made * 10 ** (dbfs / 20) / np.sqrt(np.mean(made**2)), np.float32)


def turns(name: str, count: int) -> Iterator[Turn]:
    """So many of a set, 240 at most: of 20, 9 with a pause, 6 finished, 2 broken off and 3 back-channels."""
    parts = [spoken(texts) for texts in SETS[name]]
    shares = [len(range(i, count, len(parts))) for i in range(len(parts))]
    every = itertools.chain.from_iterable(map(itertools.islice, parts, shares))
    return (replace(turn, number=number) for number, turn in enumerate(every))


def spoken(texts: Texts) -> Iterator[Turn]:
    rng = np.random.default_rng(texts.seed)
    kinds = [kind for _ in range(texts.turns // 20 + 1) for kind in rng.permutation(KINDS).tolist()]
    for number, kind in enumerate(kinds[: texts.turns]):
        voice = texts.voices[int(rng.integers(len(texts.voices)))]
        pause_s = 0.0
        if kind in ("paused", "unfinished"):
            first, second = texts.paused[int(rng.integers(len(texts.paused)))].split(" | ")
            text = f"{first} {second}"
            before, behind = split(voice, first, second)
            parts = [(before.size / MIC_RATE, first)]
            if kind == "unfinished":
                text, speech = first, before
            else:
                pause_s = PAUSES_S[int(rng.integers(len(PAUSES_S)))]
                speech = np.concatenate([before, np.zeros(round(pause_s * MIC_RATE), np.float32), behind])
        else:
            said = texts.finished if kind == "finished" else texts.backchannels
            text = said[int(rng.integers(len(said)))]
            speech, parts = say(voice, text), []
        if kind != "unfinished":
            parts.append((speech.size / MIC_RATE, text))
        about = {"text": text, "voice": voice, "pause_s": pause_s}
        yield placed(number, kind, about, speech, parts, texts, rng)


def placed(
    number: int, kind: str, about: dict[str, object], speech: Sound, parts: list[tuple[float, str]], texts: Texts,
    rng: np.random.Generator,
) -> Turn:  # fmt: skip
    """In a room, at some distance from the microphone."""
    dbfs = SPEECH_DBFS[int(rng.integers(len(SPEECH_DBFS)))]
    name, noise_dbfs = NOISES[int(rng.integers(len(NOISES)))]
    noise_dbfs = min(noise_dbfs, dbfs - 15)
    lead = round((LEAD_S + (1.5 if kind == "backchannel" else 0.0)) * MIC_RATE) + int(rng.integers(320))
    sound = np.zeros(lead + speech.size + round(TAIL_S * MIC_RATE), np.float32)
    voiced = speech[np.abs(speech) > 0.02]
    sound[lead : lead + speech.size] = speech * 10 ** (dbfs / 20) / np.sqrt(np.mean(voiced**2))
    sound += noise(name, noise_dbfs, sound.size, texts, rng)
    pcm = (sound.clip(-1, 1) * 32767).astype(np.int16)
    known = [(lead / MIC_RATE + end_s - 0.05, words) for end_s, words in parts]
    about = {**about, "dbfs": dbfs, "noise": name, "noise_dbfs": noise_dbfs}
    return Turn(number, kind, about, pcm, lead / MIC_RATE, (lead + speech.size - 160) / MIC_RATE, known)


def word_ends(pcm: bytes, text: str) -> list[float]:
    """When each of these words is over, in seconds: pocketsphinx's forced alignment."""
    from server.asr.pocketsphinx_worker import new_decoder

    decoder = new_decoder()
    decoder.set_align_text(text)
    decoder.start_utt()
    decoder.process_raw(pcm, full_utt=True)
    decoder.end_utt()
    return [(s.end_frame + 1) / 100 for s in decoder.seg() or () if s.word[0] not in "<["]


def people() -> Iterator[Turn]:
    """Each recording twice as it is, and twice with a pause at each of its bars. Raises OSError without them."""
    rng = np.random.default_rng(3)
    texts, number = SECOND, itertools.count()
    for name, marked in READ.items():
        with wave.open(str(RECORDINGS / f"{name}.wav")) as recording:
            pcm = recording.readframes(recording.getnframes())
        read = np.frombuffer(pcm, np.int16).astype(np.float32)
        whole: Sound = np.asarray(read / np.abs(read).max(), np.float32)
        loud = np.flatnonzero(np.abs(whole) > 0.03)
        begin, end = max(0, loud[0] - 800), loud[-1] + 160
        parts = marked.split(" | ")
        text = " ".join(parts)
        ends = word_ends(pcm, text)
        for i in (0, 0, *(i for i in range(1, len(parts)) for _ in range(2))):
            cut = round(ends[len(" ".join(parts[:i]).split()) - 1] * MIC_RATE) if i else end
            before, behind = faded(whole[begin:cut], whole[cut:end])
            pause_s = PAUSES_S[int(rng.integers(len(PAUSES_S)))] if i else 0.0
            speech = np.concatenate([before, np.zeros(round(pause_s * MIC_RATE), np.float32), behind])
            known = [(before.size / MIC_RATE, " ".join(parts[:i]))] if i else []
            known.append((speech.size / MIC_RATE, text))
            about = {"text": text, "voice": name, "pause_s": pause_s, "after": " ".join(parts[:i])}
            yield placed(next(number), "paused" if i else "finished", about, speech, known, texts, rng)
