"""Upstream's streaming faults: each is there in its bare code, and gone in ours."""

import json
import urllib.request

import pytest

pytestmark = pytest.mark.timeout(300)  # the first of them waits for the server, too

NAMES = (
    "hop_grows",
    "sessions_disturb",
    "prompt_delays",
    "polling",
    "close_goes_on",
    "failure_hangs",
    "stall_hangs",
    "nonsense",
    "sounds_the_same",
)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_shown_on_the_bare_code_and_gone_in_ours(served: str, name: str) -> None:
    with urllib.request.urlopen(f"{served}/faults/{name}", timeout=100) as answer:
        found = json.load(answer)
    print(name, json.dumps(found))
    assert found["shown"], f"the bare code no longer has this fault: {found}"
    assert found["gone"], found
