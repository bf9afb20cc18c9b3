"""`visavis voice add|list|remove`: cloned voices on the command line."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import anyio

from server.config import Config, load_config
from server.core.errors import ConfigError, RequestError
from server.core.protocols import Tts
from server.engines import clones, load_asr
from server.voice_routes import NO_CLONES, forget, listener
from tts.cosyvoice import CosyVoiceSettings
from tts.openai_speech import OpenAiSpeechSettings
from tts.references import Reference
from tts.routed import RoutedTts
from tts.scripts import primary
from tts.voices import CONSENT, Voices, check_consent, check_language, check_name, check_transcript, prepare


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status; raises VisavisError with a sentence."""
    options = _parser().parse_args(arguments)
    config = load_config(options.config, options.set)
    folder = options.folder or clones(config)
    if not folder:
        raise ConfigError(f"{NO_CLONES} Or name a folder with --folder.")
    return anyio.run(COMMANDS[options.command], options, config, Voices(folder))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="visavis voice", description="Voices that are cloned from recordings.")
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="clone a voice from any sound or film of 3 to 30 s")
    add.add_argument("file", type=Path, help="somebody speaking; 5 to 10 s without noise are best")
    add.add_argument("--name", default="", help="what the voice is called; the file's name if not given")
    add.add_argument("--transcript", default="", help="word by word what is said; else the recogniser writes it")
    add.add_argument("--language", default="", help="such as en or zh")
    add.add_argument("--consent", action="store_true", help=f'"{CONSENT}"')
    show = commands.add_parser("list", help="the voices there are")
    remove = commands.add_parser("remove", help="delete a voice, at the voice server too")
    remove.add_argument("name")
    remove.add_argument("--force", action="store_true", help="also if the voice server cannot be told")
    for command in (add, show, remove):
        command.add_argument("--config", type=Path, action="append", default=[], metavar="FILE")
        command.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
        command.add_argument("--folder", default="", help="of the voices; tts.clones if not given")
    return parser


async def _add(options: argparse.Namespace, config: Config, voices: Voices) -> int:
    consent = check_consent(options.consent, "") if options.consent else _refuse()
    name = check_name(options.name or options.file.stem)
    transcript, language = check_transcript(options.transcript), check_language(options.language)
    if not options.file.is_file():
        raise RequestError(400, "no_recording", f"There is no file {options.file}.")
    await voices.check_room(name)
    language = language or ("" if transcript else primary(next(iter(config.personas.values())).language))
    async with AsyncExitStack() as stack:
        hear = None
        if not transcript:
            hear = listener(await stack.enter_async_context(load_asr(config)), language)
        voice = await prepare(
            options.file, name, transcript=transcript, language=language, consent=consent, hear=hear
        )
    await voices.add(voice)
    print(f"{name}: {voice.sheet.seconds:.0f} s, {voice.sheet.language}, kept in {voices.folder / name}")
    for advice in voice.advice:
        print(f"  {advice}")
    return 0


def _refuse() -> str:
    raise RequestError(400, "no_consent", f"A voice is cloned only with consent: --consent says: {CONSENT}")


async def _list(options: argparse.Namespace, config: Config, voices: Voices) -> int:
    sheets = await voices.sheets()
    for name, sheet in sheets.items():
        agreed = sheet.consent.time if sheet.consent else "no consent is noted"
        print(f"{name:24} {sheet.language:4} {sheet.seconds:4.0f} s  {agreed}  {sheet.transcript[:60]}")
    if not sheets:
        print(f"No voices in {voices.folder}.", file=sys.stderr)
    return 0


async def _remove(options: argparse.Namespace, config: Config, voices: Voices) -> int:
    async with AsyncExitStack() as stack:
        served: Tts | None = None
        if isinstance(config.tts, CosyVoiceSettings | OpenAiSpeechSettings):
            served = await stack.enter_async_context(config.tts.load())

        async def tell(reference: Reference) -> None:
            if served is not None:
                await RoutedTts([served]).forget(reference)

        await forget(voices, check_name(options.name), tell, options.force)
    print(f"{options.name} is deleted.")
    return 0


COMMANDS = {"add": _add, "list": _list, "remove": _remove}
