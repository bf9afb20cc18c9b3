#!/usr/bin/env bash
# Every check and every test. ARGS go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/check.sh
if [ -n "${VISAVIS_COSYVOICE:-}" ]; then
  scripts/cosyvoice.sh
fi
if command -v node >/dev/null 2>&1; then
  node --test client/test/
fi
exec .venv/bin/python -m pytest "$@"
