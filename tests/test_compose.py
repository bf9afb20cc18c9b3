"""compose.yaml, read as compose would: what listens where, who knows which secret, and that our parts take it so."""

import asyncio
import re
import subprocess
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from aioice import stun, turn

from server.__main__ import _parser
from server.config import Config, load_config
from server.gpus import Gpu, add_up
from server.llm.openai_compatible import OpenAiSettings
from server.rtc.peer import IceServer
from tests.test_endpoints import needs_coturn, running_coturn, until_up
from tts.cosyvoice import CosyVoiceSettings

yaml = pytest.importorskip("yaml", reason="PyYAML reads compose.yaml")

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "compose.yaml").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
SECRETS = {"TURN_SECRET": "t" * 48, "LLM_API_KEY": "123e45", "TTS_API_KEY": "true"}  # as unlucky as can be


def example() -> dict[str, str]:
    return dict(line.split("=", 1) for line in EXAMPLE.splitlines() if line and not line.startswith("#"))


def filled(value: Any, variables: dict[str, str]) -> Any:
    """With its variables put in, as compose does."""
    if isinstance(value, dict):
        return {key: filled(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one, variables) for one in value]
    if not isinstance(value, str):
        return value

    def put(match: re.Match[str]) -> str:
        name, kind, otherwise = match.groups()
        if given := variables.get(name):
            return given
        assert kind == "-", f"{name} has no value"
        return str(otherwise)

    return VARIABLE.sub(put, value)


def compose(**changes: str) -> dict[str, Any]:
    return dict(filled(yaml.safe_load(TEXT), {**example(), **SECRETS, **changes}))


SERVICES: dict[str, dict[str, Any]] = compose()["services"]


def configured(services: dict[str, dict[str, Any]]) -> Config:
    """Our server's configuration, as its container would read it."""
    command = services["server"]["command"]
    options = _parser().parse_args(command)
    (file,) = options.config
    assert file.parts[:4] == ("/", "opt", "visavis", "configs")  # where the Dockerfile puts it
    return load_config(
        [ROOT / "configs" / file.name], [f"http.host={options.host}"], services["server"]["environment"]
    )


# ---- what listens --------------------------------------------------------------------------------------------------


def test_nothing_but_the_page_and_turn_is_published() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        "server": ["127.0.0.1:8080:8080"],
        "turn": ["127.0.0.1:3478:3478/udp", "127.0.0.1:3478:3478/tcp"],
    }
    for service in SERVICES.values():
        assert not {"network_mode", "expose", "privileged", "pid", "ipc"} & service.keys()


def test_turn_meets_nobody_but_our_server() -> None:
    """Not in the models' network; and of its own network it may relay to one address only."""
    assert SERVICES["turn"]["networks"] == ["media"]
    assert [name for name, service in SERVICES.items() if "media" in service["networks"]] == ["server", "turn"]
    here = SERVICES["server"]["networks"]["media"]["ipv4_address"]
    command = SERVICES["turn"]["command"]
    assert [option for option in command if "-peer-ip=" in option] == [
        "--denied-peer-ip=0.0.0.0-255.255.255.255",
        "--denied-peer-ip=::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        f"--allowed-peer-ip={here}",
    ]
    (network,) = compose()["networks"]["media"]["ipam"]["config"]
    assert here.rpartition(".")[0] + ".0/24" == network["subnet"]


def test_models_are_reached_by_the_server_only() -> None:
    for name in ("llm", "cosyvoice"):
        assert SERVICES[name]["networks"] == ["models"]
        assert "ports" not in SERVICES[name]


# ---- secrets and variables -----------------------------------------------------------------------------------------


def test_every_variable_is_explained_and_every_explained_one_used() -> None:
    used = {match[1] for match in VARIABLE.finditer(TEXT)}
    assert used == set(example())
    lines = EXAMPLE.splitlines()
    for name in used:
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{name}="))
        while not lines[at].startswith("#"):
            at -= 1
            assert lines[at], f"{name} is not explained"


def test_defaults_are_those_of_the_example() -> None:
    for match in VARIABLE.finditer(TEXT):
        name, kind, otherwise = match.groups()
        assert kind in ("-", "?"), f"{name} has neither a default nor a sentence"
        if kind == "-":
            assert otherwise == example()[name]
        else:
            assert example()[name] == ""
            assert name in SECRETS


def test_no_secret_stands_in_the_files() -> None:
    for name in ("TURN_SECRET", "LLM_API_KEY", "TTS_API_KEY", "VISAVIS_API_KEY", "HF_TOKEN"):
        assert example()[name] == ""
    for line in TEXT.splitlines():
        if re.search(r"(?i)(key|secret|token)\W*[:=]", line) and "{urls" not in line:
            assert "${" in line, line
    ignored = subprocess.run(["git", "check-ignore", ".env"], cwd=ROOT, capture_output=True, check=False)
    assert ignored.returncode in (0, 128)  # 128: no git here
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"  # nor into an image


def test_each_knows_only_its_own_secrets() -> None:
    for name, own in (("llm", "LLM_API_KEY"), ("cosyvoice", "TTS_API_KEY"), ("turn", "TURN_SECRET")):
        raw = str(yaml.safe_load(TEXT)["services"][name])
        assert {secret for secret in SECRETS if secret in raw} == {own}


# ---- our parts take it ---------------------------------------------------------------------------------------------


def test_our_server_reads_its_wiring() -> None:
    config = configured(SERVICES)
    assert (config.http.host, config.http.api_key, config.http.origins) == ("0.0.0.0", "", ())
    assert config.ice.addresses == [SERVICES["server"]["networks"]["media"]["ipv4_address"]]
    (relay,) = config.ice.ice_servers
    assert relay.urls == ["turn:127.0.0.1:3478?transport=udp", "turn:127.0.0.1:3478?transport=tcp"]
    assert relay.page_only
    assert f"--static-auth-secret={relay.secret}" in SERVICES["turn"]["command"]
    llm, tts = config.llm, config.tts
    assert isinstance(llm, OpenAiSettings)
    assert isinstance(tts, CosyVoiceSettings)
    assert (llm.base_url, llm.api_key) == ("http://llm:8000/v1", SERVICES["llm"]["environment"]["VLLM_API_KEY"])
    assert llm.model == SERVICES["llm"]["command"][0]
    assert (tts.base_url, tts.api_key) == (
        "http://cosyvoice:50000",
        SERVICES["cosyvoice"]["environment"]["VISAVIS_TTS_KEY"],
    )
    assert tts.clones.startswith("/data/")


def test_it_is_reached_elsewhere_as_the_example_says() -> None:
    services = compose(
        VISAVIS_BIND="0.0.0.0",
        TURN_BIND="0.0.0.0",
        TURN_HOST="turn.example.org",
        VISAVIS_ORIGINS='["https://example.org"]',
        VISAVIS_NET="10.9.8",
        VISAVIS_API_KEY="0123",
    )["services"]
    config = configured(services)
    assert config.http.origins == ("https://example.org",)
    assert config.http.api_key == "0123"  # a text, whatever it looks like
    assert config.ice.ice_servers[0].urls[0] == "turn:turn.example.org:3478?transport=udp"
    assert config.ice.addresses == ["10.9.8.10"]
    assert services["turn"]["ports"][0] == "0.0.0.0:3478:3478/udp"


def test_the_shares_of_the_gpu_are_kept() -> None:
    config = configured(SERVICES)
    devices = {"asr": config.asr.device, "render": config.render.device}  # type: ignore[union-attr]
    card = Gpu(0, "24 GB", config.gpu.memory_gib, 0.0)
    assert all(finding.good for finding in add_up(config.gpu, devices, [card]))
    (option,) = [o for o in SERVICES["llm"]["command"] if o.startswith("--gpu-memory-utilization=")]
    assert float(option.partition("=")[2]) * config.gpu.memory_gib == config.gpu.llm.memory_gib
    on_gpu = [name for name, service in SERVICES.items() if "deploy" in service]
    assert on_gpu == ["server", "llm", "cosyvoice"]
    for name in on_gpu:
        (device,) = SERVICES[name]["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["device_ids"], device["capabilities"]) == ("nvidia", ["0"], ["gpu"])
    assert {share.device for share in config.gpu.shares.values()} == {"cuda:0"}  # the one that a container sees


def test_each_starts_when_what_it_needs_is_well() -> None:
    for service in SERVICES.values():
        check = service["healthcheck"]
        assert check["test"][0] == "CMD"
        assert {"interval", "timeout", "retries"} <= check.keys()
        assert all(on["condition"] == "service_healthy" for on in service.get("depends_on", {}).values())
    assert set(SERVICES["server"]["depends_on"]) == {"llm", "cosyvoice", "turn"}


def test_what_is_kept_has_a_volume() -> None:
    volumes = [one.partition(":")[0] for service in SERVICES.values() for one in service.get("volumes", ())]
    assert sorted(volumes) == sorted(compose()["volumes"])
    config = configured(SERVICES)
    assert str(config.asr.models_dir).startswith("/data/")  # type: ignore[union-attr]
    assert "server:/data" in SERVICES["server"]["volumes"]


# ---- the images ----------------------------------------------------------------------------------------------------


def stages(file: Path) -> dict[str, list[str]]:
    """A Dockerfile's instructions by stage, continued lines joined; `FROM` says what a stage begins with."""
    found: dict[str, list[str]] = {}
    for line in re.sub(r"\\\n", " ", file.read_text()).splitlines():
        if begun := re.fullmatch(r"FROM (\S+)(?: AS (\S+))?", line):
            stage = found[begun[2] or "last"] = [*found.get(begun[1], ()), line]
        elif line and not line.startswith("#") and found:
            stage.append(line)
    return found


def test_the_servers_image_is_light_and_not_roots() -> None:
    all_stages = stages(ROOT / "Dockerfile")
    assert list(all_stages)[-1] == "cpu"  # what is built when no target is named
    assert SERVICES["server"]["build"]["target"] in all_stages
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    taken = {
        name: {
            x
            for line in all_stages[name]
            for call in re.findall(r"python scripts/requirements\.py ([\w ]+)", line)
            for x in call.split()
        }
        for name in ("build-cpu", "build-gpu")
    }
    assert taken["build-cpu"] == {"pocketsphinx", "instag", "endpointing", "tts"}
    assert taken["build-gpu"] == taken["build-cpu"] | {"asr"}
    assert taken["build-gpu"] <= extras.keys()
    assert not any("torch" in package for name in taken["build-cpu"] for package in extras[name])
    for name in ("cpu", "gpu"):
        lines = all_stages[name]
        assert "USER visavis" in lines
        assert any(line.startswith("HEALTHCHECK") and "/health" in line for line in lines)
        assert f"COPY --from=build-{name} /opt/visavis /opt/visavis" in lines
        assert not any("build-essential" in line or "git" in line.split() for line in lines)
        assert lines.index("COPY configs /opt/visavis/configs")


def test_what_an_image_copies_is_let_through() -> None:
    let = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for file in (ROOT / "Dockerfile", ROOT / "docker" / "cosyvoice" / "Dockerfile"):
        for source in re.findall(r"^COPY (?!--from)(.+) \S+$", file.read_text(), re.MULTILINE):
            for path in source.split():
                assert (ROOT / path).exists()
                assert any(path == one or path.startswith(f"{one}/") for one in let), path
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.rstrip("*") for name in found} <= let


def test_the_voice_server_takes_its_command() -> None:
    pytest.importorskip("torch", reason="the voice server needs torch")
    from tts.cosyvoice_server.__main__ import arguments

    (command,) = re.findall(r'cosyvoice_server (--model .*)"\]', (ROOT / "docker/cosyvoice/Dockerfile").read_text())
    known = SERVICES["cosyvoice"]["environment"]
    options = arguments(re.sub(r'\\"\$(\w+)\\"', lambda name: known[name[1]], command).split())
    assert (options.model, options.host, options.port) == ("iic/CosyVoice2-0.5B", "0.0.0.0", 50000)
    assert "cosyvoice:/data" in SERVICES["cosyvoice"]["volumes"]
    assert options.voices.startswith("/data/")
    assert options.memory_gib < configured(SERVICES).gpu.tts.memory_gib  # CUDA's own comes on top


def test_the_voice_server_keeps_to_its_share() -> None:
    pytest.importorskip("torch", reason="the voice server needs torch")
    from tts.cosyvoice_server.__main__ import keep_to

    kept: list[tuple[float, int]] = []
    card = SimpleNamespace(total_memory=20 * 2**30)
    cuda = SimpleNamespace(
        is_available=lambda: True,
        get_device_properties=lambda index: card,
        set_per_process_memory_fraction=lambda share, index: kept.append((share, index)),
    )
    keep_to(5.0, cuda)
    keep_to(0.0, cuda)
    keep_to(99.0, cuda)
    keep_to(5.0, SimpleNamespace(is_available=lambda: False))
    assert kept == [(0.25, 0), (1.0, 0)]


# ---- coturn, with the very options ---------------------------------------------------------------------------------


@needs_coturn
async def test_coturn_relays_to_our_server_and_to_nobody_else(tmp_path: Path) -> None:
    """Our server's address is 127.0.0.1 here, the models' 127.0.0.2."""
    options = [o for o in SERVICES["turn"]["command"] if not o.startswith(("--listening-port", "--allowed-peer-ip"))]
    options += ["--allowed-peer-ip=127.0.0.1", "--allow-loopback-peers"]
    with running_coturn(tmp_path, *options[1:]) as port:
        await until_up(port)
        secret = configured(SERVICES).ice.ice_servers[0].secret
        username, credential = IceServer(urls=["turn:t"], secret=secret).login(time.time())
        heard: list[bytes] = []

        class Ear(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, address: Any) -> None:
                heard.append(data)

        relay, _ = await turn.create_turn_endpoint(
            Ear,
            server_addr=("127.0.0.1", port),
            username=username,
            password=credential,
        )
        async with await anyio.create_udp_socket(local_host="127.0.0.1") as ours:
            _, here = ours.extra(anyio.abc.SocketAttribute.local_address)
            with anyio.fail_after(5):
                relay.sendto(b"hello", ("127.0.0.1", here))
                data, back = await ours.receive()
                assert data == b"hello"
                await ours.sendto(b"well", *back)
                while not heard:
                    await anyio.sleep(0.01)
            assert heard == [b"well"]
        client = relay._TurnTransport__inner_protocol  # type: ignore[attr-defined]
        for stranger in ("127.0.0.2", "10.0.0.1", "8.8.8.8"):
            with pytest.raises(stun.TransactionFailed) as refused:
                await client.channel_bind(0x4001, (stranger, 8000))
            assert refused.value.response.attributes["ERROR-CODE"][0] == 403
        relay.close()
        await anyio.sleep(0.1)
