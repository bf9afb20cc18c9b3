#!/usr/bin/env bash
# Makes .venv: `environment.sh run` for the conversation, `environment.sh run test` for the tests and benchmarks too.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf '%s\n' "$*" >&2; exit 1; }

# The newest Python that fits and can make a virtual environment; else say what is missing.
python="" unable=""
if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); else candidates=(python3.13 python3.12 python3.11 python3); fi
for candidate in "${candidates[@]}"; do
  command -v "$candidate" >/dev/null 2>&1 || continue
  "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || continue
  if "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
    python=$candidate
    break
  fi
  unable=${unable:-$candidate}
done

if ! .venv/bin/python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
  if [ -z "$python" ] && [ -n "$unable" ]; then
    fail "$("$unable" --version) has no venv module. Install it (Debian and Ubuntu: sudo apt-get install python3-venv), then try again."
  fi
  [ -n "$python" ] ||
    fail "visavis needs Python 3.11, 3.12 or 3.13, and found none here. Install one (Debian and Ubuntu: sudo apt-get install python3 python3-venv; macOS: brew install python@3.13), or name it: make run PYTHON=/path/to/python3.13"
  rm -rf .venv
  echo "Making .venv with $("$python" --version) ..."
  "$python" -m venv .venv
fi

pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
quietly() { "$@" >.venv/install.log 2>&1 || { tail -n 15 .venv/install.log >&2; return 1; }; }

echo "Installing the light core and the face (no torch; some 700 MB on disk) ..."
# Wheels only: a missing wheel must be said in a sentence, not by a compiler.
.venv/bin/python scripts/requirements.py >.venv/requirements.txt
quietly pip install --only-binary :all: -r .venv/requirements.txt ||
  fail "Some package has no wheel for this machine and Python ($(.venv/bin/python --version)), or the registry cannot be reached; the lines above say which. Another Python may help: make run PYTHON=python3.12"
.venv/bin/python scripts/requirements.py pocketsphinx >.venv/requirements-pocketsphinx.txt
quietly pip install --only-binary :all: -r .venv/requirements-pocketsphinx.txt ||
  echo "pocketsphinx has no wheel for this machine: the call will run on text input instead of the microphone."
.venv/bin/python scripts/requirements.py instag >.venv/requirements-instag.txt
quietly pip install --only-binary :all: -r .venv/requirements-instag.txt ||
  echo "numba has no wheel for this machine: the call will show a portrait instead of the InsTaG face."
.venv/bin/python scripts/requirements.py endpointing >.venv/requirements-endpointing.txt
quietly pip install --only-binary :all: -r .venv/requirements-endpointing.txt ||
  echo "onnxruntime has no wheel for this machine: silence and words alone will end a turn."
quietly pip install --no-deps -e . || fail "The project itself could not be installed; see .venv/install.log."
if .venv/bin/python -c 'import numba' 2>/dev/null; then
  echo "Compiling the face's kernels for this machine, once (half a minute) ..."
  quietly .venv/bin/python -c 'from render import instag; instag.people(instag.folders([instag.AVATARS]))' ||
    echo "The kernels could not be compiled now; the first call's worker will do it, or show a portrait."
fi
touch .venv/.ready-run

if [ "${2:-}" = test ]; then
  scripts/system.sh
  echo "Installing what the tests need ..."
  .venv/bin/python scripts/requirements.py test instag train tts >.venv/requirements-test.txt
  quietly pip install --only-binary :all: -c constraints.txt -r .venv/requirements-test.txt || fail "The test packages could not be installed; the lines above say why."
  # Some of FunASR's own requirements come as source only (plain Python, 40 s and 600 MB in all).
  .venv/bin/python scripts/requirements.py asr >.venv/requirements-asr.txt
  quietly pip install -c constraints.txt -r .venv/requirements-asr.txt ||
    echo "FunASR could not be installed (see .venv/install.log): its tests will be skipped."
  if command -v npm >/dev/null 2>&1; then
    (cd tests/browser && quietly_log=../../.venv/install-npm.log && npm ci --no-audit --no-fund >"$quietly_log" 2>&1) ||
      echo "npm could not install the browser tests' packages (see .venv/install-npm.log): those tests will be skipped."
  fi
  touch .venv/.ready-test
fi
