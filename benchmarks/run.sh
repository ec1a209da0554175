#!/usr/bin/env bash
# One more turn through Isthmus and its peers: JSON on stdout, progress on stderr. Flags go to `isthmus bench turn`.
set -euo pipefail
cd "$(dirname "$0")/.."
make --no-print-directory setup >&2
benchmarks/setup.sh >&2
exec .venv/bin/isthmus bench turn --json --peers "$@"
