#!/bin/sh
# Makes a bare Debian 12/13 or Ubuntu ready for rehearsals, as root: programs from apt, and a Docker engine.
# Idempotent; under a second when all is there. Needs no terminal and reads no input.
set -eu
exec </dev/null

cache=${GPUHOST_REHEARSAL_CACHE:-$HOME/.cache/gpuhost-rehearsal}
mkdir -p "$cache"

engine_answers() { command -v docker >/dev/null && docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# program:package
wanted="
    mmdebstrap:mmdebstrap dnsmasq:dnsmasq-base apt-ftparchive:apt-utils gpg:gnupg gpgconf:gpgconf
    docker-registry:docker-registry ssh:openssh-client ip:iproute2 iptables:iptables dpkg-deb:dpkg git:git
    openssl:openssl zstd:zstd ps:procps cc:gcc
"
engine_answers || wanted="$wanted dockerd:docker.io docker:docker.io"
missing=
for pair in $wanted; do
    command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
done
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing="$missing debian-archive-keyring"
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"
[ -e /usr/include/stdlib.h ] || missing="$missing libc6-dev"
if [ -n "$missing" ]; then
    [ "$(id -u)" = 0 ] || { echo "error: missing:$missing" >&2; echo "hint: run this as root" >&2; exit 1; }
    # A package must not start services here: there may be no init, and dnsmasq or the registry are ours to start.
    policy=
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        policy=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod 755 "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    # Debian 13 split the client from the engine.
    command -v docker >/dev/null || ! apt-cache show docker-cli >/dev/null 2>&1 || missing="$missing docker-cli"
    # shellcheck disable=SC2086
    apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=600 $missing
    [ -z "$policy" ] || rm -f "$policy"
fi

if ! engine_answers; then
    [ "$(id -u)" = 0 ] || { echo "error: no Docker engine answers" >&2; echo "hint: run this as root" >&2; exit 1; }
    if [ -d /run/systemd/system ] && systemctl start docker 2>/dev/null; then :; else
        setsid dockerd >"$cache/dockerd.log" 2>&1 &
        echo $! > "$cache/dockerd.pid"
    fi
    tries=0
    until engine_answers; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || { echo "error: dockerd does not answer" >&2; echo "hint: see $cache/dockerd.log" >&2; exit 1; }
        sleep 0.1
    done
fi
