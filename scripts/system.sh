#!/usr/bin/env bash
# What the tests need from the system: installed as root on Debian and Ubuntu, else named in a sentence.
set -euo pipefail

have_chromium() {
  [ -n "${VISAVIS_CHROMIUM:-}" ] && [ -x "${VISAVIS_CHROMIUM}" ] && return 0
  for name in chromium chromium-browser google-chrome google-chrome-stable; do
    command -v "$name" >/dev/null 2>&1 && return 0
  done
  [ -x "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" ]
}

missing=()
have_chromium || missing+=(chromium)
command -v flite >/dev/null 2>&1 || missing+=(flite)
command -v ffmpeg >/dev/null 2>&1 || missing+=(ffmpeg)
command -v node >/dev/null 2>&1 || missing+=(nodejs npm)
command -v turnserver >/dev/null 2>&1 || missing+=(coturn)
[ -d /usr/share/pocketsphinx/test/data ] || missing+=(pocketsphinx-testdata)
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "Installing ${missing[*]} ..."
  log=$(mktemp)
  if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    echo "apt-get could not install ${missing[*]}; the tests that need them will be skipped." >&2
  fi
  rm -f "$log"
  # The tests start coturn themselves; as a service it would listen to everybody.
  case " ${missing[*]} " in *" coturn "*) systemctl disable --now coturn >/dev/null 2>&1 || true ;; esac
else
  echo "The tests also want: ${missing[*]}. On Debian or Ubuntu: sudo apt-get install ${missing[*]}. A browser elsewhere is named by VISAVIS_CHROMIUM. What is missing is skipped."
fi
