#!/usr/bin/env bash
# dev/progress.sh TEXT COMMAND...: run a quiet command, and say what it does: at its start, every 10 s, and at its end.
# The lines go to standard error, with or without a terminal. The exit status is the command's.
set -euo pipefail
text=$1
shift
echo "$text" >&2
# A `sleep` that outlives this script must not keep its output open, or a reader of the pipe would wait for it.
( while sleep "${PROGRESS_SECONDS:-10}" >/dev/null 2>&1; do echo "$text: $SECONDS s so far" >&2; done ) &
ticker=$!
trap 'kill $ticker 2>/dev/null || true' EXIT
status=0
"$@" || status=$?
[ $status != 0 ] || echo "$text: done after $SECONDS s" >&2
exit $status
