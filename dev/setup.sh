#!/usr/bin/env bash
# Install the system packages that a make target needs: dev/setup.sh demo|test|e2e|sweep.
# As root on Debian or Ubuntu it installs what is missing; elsewhere it prints the command.
# Python packages (dev/make/venv.mk) and Go with what it builds (dev/testbed) need no root and are installed elsewhere.
set -euo pipefail
tier=${1:?"give a tier: demo, test, e2e or sweep"}
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

missing=()
program() { # program NAME PACKAGE
    command -v "$1" >/dev/null || missing+=("$2")
}
file() { # file PATH PACKAGE
    [ -e "$1" ] || missing+=("$2")
}

program git git
[ -e .uv/bin/uv ] || command -v uv >/dev/null || python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
! command -v apt-get >/dev/null || file /etc/ssl/certs/ca-certificates.crt ca-certificates
program make make
if [ "$tier" != demo ]; then
    program ssh-keygen openssh-client # tests compare our signatures with its own
    [ -d /usr/lib/rabbitmq ] || program rabbitmq-server rabbitmq-server # tests start their own broker with it
    program openssl openssl
    program squid squid # the egress proxy
    program npm npm # vendors publish schemas and examples as npm packages
fi
if [ "$tier" = sweep ]; then
    program cargo cargo # a test uses it through the egress proxy
    # Tests use the web pages with a browser.
    file /usr/bin/chromium chromium
    file /usr/bin/chromedriver chromium-driver
fi
if { [ "$tier" = e2e ] || [ "$tier" = sweep ]; } && [ "$(uname)" = Linux ] && [ -z "${E2E_KUBECONFIG:-}" ]; then # the node
    program ip iproute2
    program iptables iptables
    program cc gcc
    program pkg-config pkg-config
    file /usr/include/stdlib.h libc6-dev
    file /usr/include/seccomp.h libseccomp-dev
    program buildah buildah
    program debootstrap debootstrap
fi
# Every Kubernetes program watches files, and Linux allows one user 128 watchers
# (https://kind.sigs.k8s.io/docs/user/known-issues/#pod-errors-due-to-too-many-open-files).
watchers=/proc/sys/fs/inotify/max_user_instances
if [ "$tier" != demo ] && [ -w $watchers ] && [ "$(cat $watchers)" -lt 1024 ]; then
    echo 1024 >$watchers || echo "Cannot raise $watchers to 1024: programs may fail with 'too many open files'" >&2
fi

[ ${#missing[@]} -gt 0 ] || exit 0
install="apt-get install -y --no-install-recommends ${missing[*]}"
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Missing on this machine: ${missing[*]}. On Debian or Ubuntu: sudo $install" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# Do not let packages start services: tests start what they use.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
    trap 'rm -f $policy' EXIT
fi
# Retry the update too: a mirror may be in the middle of an update, and apt waits only for dpkg's lock.
apt="apt-get -o DPkg::Lock::Timeout=300 -qq"
here=$(dirname "$0")
"$here/progress.sh" "Installing ${missing[*]}" "$here/again.sh" bash -c "$apt update && $apt install -y --no-install-recommends ${missing[*]} >/dev/null"
