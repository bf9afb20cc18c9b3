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
if [ $# -gt 0 ]; then
  exec .venv/bin/python -m pytest "$@"
fi

# What only computes runs beside the calls, and gives way to them.
computing=(tests/render tests/gpu tests/asr tests/cosyvoice tests/evaluation tests/benchmarks)
log=$(mktemp)
nice -n 10 .venv/bin/python -m pytest -q -p no:cacheprovider "${computing[@]}" >"$log" 2>&1 &
beside=$!
trap 'kill "$beside" 2>/dev/null || true; rm -f "$log"' EXIT
status=0
.venv/bin/python -m pytest -q "${computing[@]/#/--ignore=}" || status=$?
wait "$beside" || status=$?
cat "$log"
exit "$status"
