#!/bin/sh
# Run at boot, and when dockerd restarts, by gpuhost-services.service: starts the services that dockerd tried to start
# and could not. Docker Engine before 28.2 starts containers before it knows CDI devices (moby/moby#49989), and a GPU's
# CDI specification may be written after dockerd is up; no restart policy tries again then. A container that somebody
# stopped has no error and is left alone.
set -u
docker ps -a --filter label=gpuhost.start=always --filter label=com.docker.compose.oneoff=False \
    --filter status=exited --filter status=created --format '{{.Names}}' |
while read -r name; do
    docker inspect --format '{{index .Config.Labels "gpuhost.start-order"}} {{.Name}} {{if .State.Error}}failed{{end}}' "$name"
done | sort -n | while read -r order name error; do
    [ -n "$error" ] || continue
    echo "starting ${name#/} (order $order): dockerd could not"
    docker start "${name#/}" || echo "${name#/} does not start"
done
