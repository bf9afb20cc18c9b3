#!/usr/bin/env bash
# Makes .venv/cosyvoice: CosyVoice's pinned libraries for the tests that run upstream's real code (tests/cosyvoice).
# torch is borrowed from .venv, behind it: some 300 MB instead of 2 GB.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=tests/cosyvoice/requirements.txt
cmp -s "$wanted" .venv/cosyvoice/installed.txt && exit 0
rm -rf .venv/cosyvoice
.venv/bin/python -m venv .venv/cosyvoice
.venv/cosyvoice/bin/python -m pip --disable-pip-version-check install --no-deps --no-compile -r "$wanted" >.venv/install-cosyvoice.log 2>&1 || {
  tail -n 15 .venv/install-cosyvoice.log >&2
  echo "CosyVoice's libraries could not be installed (they need Python 3.11): its tests will be skipped."
  rm -rf .venv/cosyvoice
  exit 0
}
.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
  >"$(.venv/cosyvoice/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_behind.pth"
cp "$wanted" .venv/cosyvoice/installed.txt
