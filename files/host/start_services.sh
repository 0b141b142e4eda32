#!/bin/sh
# Run at boot, and when dockerd restarts, by gpuhost-services.service: starts the services that dockerd tried to start
# and could not. Docker Engine before 28.2 starts containers before it knows CDI devices (moby/moby#49989), and a GPU's
# CDI specification may be written after dockerd is up; no restart policy tries again then. A container that somebody
# stopped has no error and is left alone.
#
# The first argument names the services in the order in which they start. The others are a command that refuses the
# host's folders and files (its further arguments) that another account than root could turn elsewhere: a container of
# ours that has one is stopped, or not started, and this unit fails.
set -u
services="$1"; shift
place() { i=0; for each in $services; do i=$((i+1)); [ "$each" != "$1" ] || break; done; echo "$i"; }
safe() {
    name="$1"; shift
    docker inspect --format '{{range .Mounts}}{{if eq .Type "bind"}}{{.Source}}{{"\n"}}{{end}}{{end}}' "$name" |
        sed '/^$/d' | xargs -r -d '\n' "$@"
}
mine() { docker ps -a --filter label=com.docker.compose.oneoff=False --format '{{.Names}}' "$@"; }

unsafe="$(mine --filter label=gpuhost.service --filter status=running --filter status=restarting | while read -r name; do
    safe "$name" "$@" </dev/null && continue
    echo "$name"; echo "$name is stopped: see above" >&2; docker stop "$name" >/dev/null
done)"
mine --filter label=gpuhost.start=always --filter status=exited --filter status=created | while read -r name; do
    failed="$(docker inspect --format '{{if .State.Error}}failed{{end}}' "$name")"
    # What has another name than its service is somebody's own.
    case " $services " in *" $name "*) [ -z "$failed" ] || echo "$(place "$name") $name";; esac
done | sort -n | {
    while read -r order name; do
        if ! safe "$name" "$@" </dev/null; then
            unsafe="$unsafe $name"; echo "$name is not started: see above" >&2
            continue
        fi
        echo "starting $name (order $order): dockerd could not"
        docker start "$name" || echo "$name does not start"
    done
    [ -z "$unsafe" ]
}
