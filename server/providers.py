"""One union per seam: a provider is one file and one name here."""

import msgspec

from render.remote import InstagSettings, StillSettings, TestcardSettings
from server.asr.funasr import FunasrSettings
from server.asr.funasr_ws import FunasrWsSettings
from server.asr.pocketsphinx import PocketsphinxSettings
from server.asr.textonly import TextOnlySettings
from server.asr.transcriptions import TranscriptionsSettings
from server.llm.openai_compatible import OpenAiSettings
from server.llm.scripted import ScriptedSettings
from server.vad.smart_turn import SilenceSettings, SmartTurnSettings
from server.vad.webrtc import WebrtcVadSettings
from tts.cosyvoice import CosyVoiceSettings
from tts.espeak import EspeakSettings
from tts.flite import FliteSettings
from tts.openai_speech import OpenAiSpeechSettings
from tts.tone import ToneSettings


class Auto(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="auto"):
    """The best that works here; the table at the start says what was chosen and why."""


VadSettings = WebrtcVadSettings
EndpointingSettings = Auto | SmartTurnSettings | SilenceSettings
AsrSettings = (
    Auto | PocketsphinxSettings | FunasrSettings | FunasrWsSettings | TranscriptionsSettings | TextOnlySettings
)
LlmSettings = Auto | OpenAiSettings | ScriptedSettings
TtsSettings = Auto | CosyVoiceSettings | OpenAiSpeechSettings | FliteSettings | EspeakSettings | ToneSettings
RenderSettings = InstagSettings | StillSettings | TestcardSettings
