#!/usr/bin/env bash
# What anyone runs before sending work in: .ci/run on a new clone of HEAD, as CI runs it.
# A green run writes the id of HEAD's tree to .cache/green.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD
[ -z "$(git status --porcelain)" ] || echo "Not committed, so not part of this run:"$'\n'"$(git status --short)" >&2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
git clone --quiet --no-hardlinks . "$folder/clone"
tree=$(git -C "$folder/clone" rev-parse 'HEAD^{tree}')

status=0
(cd "$folder/clone" && CI=true bash .ci/run </dev/null) || status=$?

minutes="$((SECONDS / 60)) min $((SECONDS % 60)) s"
flakes=$folder/clone/.cache/reports/flakes.tsv
if [ -e "$flakes" ]; then
    mkdir -p .cache/reports
    cat "$flakes" >>.cache/reports/flakes.tsv
    echo "Flaky in this run:"
    cut -f3 "$flakes"
fi
if [ $status = 0 ]; then
    mkdir -p .cache
    echo "$tree" >"$here/.cache/green"
    echo "Green after $minutes: tree $tree"
else
    echo "Red (status $status) after $minutes: tree $tree"
fi
exit $status
