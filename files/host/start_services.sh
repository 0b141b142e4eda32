#!/bin/sh
# Run at boot, and when dockerd restarts, by gpuhost-services.service: starts the services that dockerd does not.
#
# Those that share a GPU have the restart policy `on-failure`, with which dockerd starts nothing at boot: each measures
# what is free on the card when it starts, so they are started in order, the next one when the one before is healthy, or
# will not be. The others it tried to start, and could not: Docker Engine before 28.2 starts containers before it knows
# CDI devices (moby/moby#49989), and a GPU's CDI specification may be written after dockerd is up; no restart policy
# tries again then. Of those a container that somebody stopped has no error and is left alone.
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
# Until its health is decided, which Docker does after the start period and the retries of its check.
settle() {
    health='{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{end}}'
    while [ "$(docker inspect --format "$health" "$1")" = 'running starting' ]; do sleep 1; done
}

unsafe="$(mine --filter label=gpuhost.service --filter status=running --filter status=restarting |
    while read -r name; do
        safe "$name" "$@" </dev/null && continue
        echo "$name"; echo "$name is stopped: see above" >&2; docker stop "$name" >/dev/null
    done)"
# Restart policy, whether dockerd failed, and the GPUs in commas.
about='{{.HostConfig.RestartPolicy.Name}} {{if .State.Error}}failed{{else}}-{{end}} '
about="$about"'{{range .HostConfig.DeviceRequests}}{{range .DeviceIDs}}{{.}},{{end}}{{end}}'
mine --filter label=gpuhost.start=always --filter status=running --filter status=exited --filter status=created |
    while read -r name; do
        # What has another name than its service is somebody's own.
        case " $services " in *" $name "*)
            echo "$(place "$name") $name $(docker inspect --format "$about" "$name" </dev/null)";;
        esac
    done | sort -n | {
    shared=""  # a line for each before that shares a GPU: its name, then its GPUs, a space behind each
    while read -r order name policy error gpus; do
        gpus="$(printf %s "$gpus" | tr , ' ')"
        if [ "$policy" = on-failure ]; then
            why='it shares a GPU'
            for gpu in $gpus; do
                for earlier in $(printf %s "$shared" | grep -F " $gpu " | cut -d' ' -f1); do
                    settle "$earlier" </dev/null
                done
            done
            shared="$(printf '%s\n%s %s' "$shared" "$name" "$gpus"; echo .)"; shared="${shared%.}"
            [ "$(docker inspect --format '{{.State.Status}}' "$name" </dev/null)" != running ] || continue
        else
            why='dockerd could not'
            [ "$error" = failed ] || continue
        fi
        if ! safe "$name" "$@" </dev/null; then
            unsafe="$unsafe $name"; echo "$name is not started: see above" >&2
            continue
        fi
        echo "starting $name (order $order): $why"
        docker start "$name" || echo "$name does not start"
    done
    [ -z "$unsafe" ]
}
