#!/usr/bin/env bash
# dev/again.sh COMMAND...: run a command that downloads; up to three times, for a registry may fail for a moment.
set -euo pipefail
for try in 1 2 3; do
    if "$@"; then exit 0; else status=$?; fi
    echo "try $try of 3 failed with status $status: $*" >&2
    [ "$try" = 3 ] || sleep $((5 * try))
done
exit "$status"
