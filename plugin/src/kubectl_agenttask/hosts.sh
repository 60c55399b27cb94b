#!/bin/sh
# Prints the hosts from which an image's package managers are configured to fetch, as values of the chart:
#     docker run --rm -i IMAGE sh < plugin/src/kubectl_agenttask/hosts.sh
# `kubectl agenttask hosts IMAGE` runs it in a pod.
# Use it only for images that you trust, and not in a checked-out repository, whose files could name any host.
cd / || exit 1
pip_hosts() {
    python3 -m pip config list | grep index-url && return
    # Without a setting, print pip's own default and the host of its files.
    python3 -c 'from pip._internal.models.index import PyPI as i; print(i.url, "https://" + i.file_storage_domain)'
}
found=$({
    pip_hosts
    npm config get registry
    go env GOPROXY
    go env GOSUMDB | sed 's|^|https://|'
    cat "${CARGO_HOME:-$HOME/.cargo}/config.toml"
    apt-get indextargets --format '$(SITE)'
} </dev/null 2>/dev/null)
echo "egress:"
echo "  allow:"
echo "$found" | grep -oE "https?://[^]/,|;\"' ]+" | sed -E 's|^.*://||; s|^.*@||; s/:(80|443)$//' | grep '\.' | sort -u |
    sed 's/^/    - /'
