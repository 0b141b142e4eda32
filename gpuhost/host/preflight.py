"""What makes a run impossible, found before anything changes. Pure: a reading and a catalogue in, problems out."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Mapping

from gpuhost.apt.sources import declaring
from gpuhost.catalog.checks import free_id
from gpuhost.catalog.types import Account, Catalog, Service
from gpuhost.engine.containers import size_bytes
from gpuhost.engine.rules import CDI_VERSION, LIVE_RESTORE, dotted, merging, too_old
from gpuhost.errors import Cause, Problem
from gpuhost.gpu import driver
from gpuhost.gpu.rules import access, engine_config
from gpuhost.host.facts import HostReading
from gpuhost.network.rules import options

SUPPORTED = {"debian": ("12", "13"), "ubuntu": ("22.04", "24.04", "26.04")}
# Debian 12's own docker.io is 20.10: no CDI, and its compose is 1.29.
DISTRO_ENGINE = {"debian": ("13",), "ubuntu": ("24.04", "26.04")}
KIB_PER_GIB = 1024 * 1024

Finding = tuple[str, str]
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network


def problems(reading: HostReading, catalog: Catalog, services: Iterable[str], host: str) -> list[Problem]:
    """Every reason not to begin; `services` are those that will run on this host."""
    names = list(services)
    return [
        Problem(what, hint, host)
        for what, hint in (
            *_system(reading, catalog),
            *_space(reading, catalog),
            *driver.findings(reading, catalog),
            *_daemon_json(reading, catalog),
            *_docker(reading, catalog),
            *_apt_sources(reading, catalog),
            *_ports(reading, catalog, names),
            *_names(reading, names),
            *_accounts(reading, catalog),
            *_above(reading),
            *_subnets(reading, catalog, names),
        )
    ]


def _system(reading: HostReading, catalog: Catalog) -> Iterator[Finding]:
    name = reading.os.get("PRETTY_NAME", "this system")
    if reading.os_version not in SUPPORTED.get(reading.os_id, ()):
        known = "; ".join(f"{system.capitalize()} {', '.join(versions)}" for system, versions in SUPPORTED.items())
        yield f"{name} is not a system that gpuhost supports", f"supported: {known}"
        return
    if reading.init != "systemd":
        wsl = "; on WSL2 write the two lines `[boot]` and `systemd=true` into /etc/wsl.conf, then `wsl --shutdown`"
        yield f"PID 1 is `{reading.init}`, not systemd", f"boot the host with systemd{wsl if reading.wsl else ''}"
    if catalog.engine_source == "distro" and reading.os_version not in DISTRO_ENGINE[reading.os_id]:
        yield (
            f"the Docker packages of {name} itself are too old (Docker 25.0 or later is needed)",
            'set `engine_source = "docker"` in group_data',
        )


def _space(reading: HostReading, catalog: Catalog) -> Iterator[Finding]:
    for folder, kib in reading.disk_kib.items():
        if kib < catalog.disk_min_free_gib * KIB_PER_GIB:
            yield (
                f"{folder} has {kib / KIB_PER_GIB:.1f} GiB free, {catalog.disk_min_free_gib:g} GiB are needed",
                "free space there, or move `data_root` to a larger disk",
            )
    if reading.memory_kib < catalog.memory_min_gib * KIB_PER_GIB:
        have = reading.memory_kib / KIB_PER_GIB
        yield f"the host has {have:.1f} GiB of memory, {catalog.memory_min_gib:g} GiB are needed", "add memory"
    if reading.wsl and re.match(r"/mnt/[a-z](/|$)", catalog.data_root):
        yield (
            f"{catalog.data_root} is Windows's disk: it keeps neither owners nor modes",
            "set `data_root` to a folder of WSL2's own disk, such as /srv/genai",
        )
    if catalog.data_mount and catalog.data_mount not in reading.mounts:
        yield (
            f"nothing is mounted at {catalog.data_mount}: the data would land on the system disk",
            f"mount the data disk (`mount {catalog.data_mount}`), or set `data_mount = None`",
        )


def _daemon_json(reading: HostReading, catalog: Catalog) -> Iterator[Finding]:
    kind, target = reading.daemon_json_kind or ("regular file", "")
    if reading.daemon_json is None:
        if kind == "symbolic link":
            yield (
                f"/etc/docker/daemon.json is a link to {target}, where no file is",
                "remove it, or make the file",
            )
        elif reading.daemon_json_kind:
            yield f"/etc/docker/daemon.json cannot be read: it is a {kind}", "move it away; it must be a file of JSON"
        return
    try:
        value = json.loads(base64.b64decode(reading.daemon_json))
    except ValueError as error:
        yield f"/etc/docker/daemon.json is not JSON: {error}", "mend or move that file; dockerd cannot read it either"
        return
    if not isinstance(value, dict):
        yield "/etc/docker/daemon.json does not hold a JSON object", "mend or move that file"
        return
    way, _ = access(catalog.gpu_access, reading.docker_version)
    to = merging(value, engine_config(catalog.engine_config, way, reading.gpus), reading.engine_written)
    if kind == "symbolic link" and (keys := [*to.keys, *to.taken]):
        yield (
            f"/etc/docker/daemon.json is a link to {target}, and these keys differ there: {dotted(keys)}",
            f"put the file itself in its place: `cp --remove-destination {target} /etc/docker/daemon.json`",
        )


_UPGRADE = "upgrade it (`apt-get install --only-upgrade` its packages), then run again"
_ENGINE = {"docker": "docker-ce", "distro": "docker.io"}  # engine_source -> the package of dockerd
# engine_source -> the package that apt would remove for it, containers and all, without a word in the plan
_OTHER_ENGINE = {"docker": ("docker.io", "distro"), "distro": ("docker-ce", "docker")}


def _docker(reading: HostReading, catalog: Catalog) -> Iterator[Finding]:
    if reading.docker_desktop:
        yield (
            "the Docker of this WSL2 distribution is Docker Desktop's, whose engine gpuhost cannot configure",
            "Docker Desktop, Settings, Resources, WSL integration: switch this distribution off; then run again",
        )
        return
    package, source = _OTHER_ENGINE[catalog.engine_source]
    if package in reading.engines:
        yield (
            f"Docker is installed from the package {package}: another would replace it and stop its containers",
            f'keep it by `engine_source = "{source}"` where that is new enough, or remove {package} yourself',
        )
    elif too_old(reading.docker_version):
        yield f"Docker {reading.docker_version} runs on this host: 25.0 or later is needed", _UPGRADE
    elif reading.gpus and catalog.gpu_access == "cdi" and too_old(reading.docker_version, CDI_VERSION):
        yield (
            f"Docker {reading.docker_version} runs on this host: CDI needs 26.1 or later",
            f'{_UPGRADE}; or set `gpu_access = "auto"`',
        )
    yield from _engine_config(reading, catalog)
    # What it has would be planned anew, and its networks' routes taken for somebody else's.
    if reading.docker_silent and not reading.engines:
        yield (
            "Docker has containers on this host, and dockerd is not installed",
            f"`apt-get install {_ENGINE[catalog.engine_source]}`, as it was; then run again",
        )
    elif reading.docker_silent:
        yield (
            "Docker has containers on this host, and dockerd does not run or does not answer",
            "`systemctl restart docker`; `journalctl -u docker` says why it ended",
        )


def _engine_config(reading: HostReading, catalog: Catalog) -> Iterator[Finding]:
    wants_live = catalog.engine_config.get(LIVE_RESTORE) is True
    if reading.swarm and wants_live:
        yield (
            "Docker is a member of a swarm: with live-restore it would not start",
            'leave `"live-restore"` out of `engine_config` in group_data',
        )
    version, pinned = reading.docker_version, catalog.engine_version
    lives = any(each.lives for each in reading.containers)
    if version and pinned and version != pinned and lives and not reading.live_restore:
        yield (
            f"Docker {version} would become {pinned} (`engine_version`), and containers would stop for it",
            'apply `engine_config = {"live-restore": True}` first, without `engine_version`; then with it',
        )


def _apt_sources(reading: HostReading, catalog: Catalog) -> Iterator[Finding]:
    """One repository declared twice with two keys, the first time in a file that declares others, too."""
    wanted = {"docker": catalog.engine_source == "docker", "nvidia": bool(reading.gpus)}
    for name, repository in catalog.apt_repositories.items():
        url = repository.url.format(**reading.url_marks).rstrip("/")
        _, shared = declaring(reading.apt_sources, url, reading.deb_arch)
        for file in shared if wanted[name] else ():
            yield (
                f"{file} declares {url} with a key of its own, and others besides: apt reads nothing when gpuhost "
                "declares it too",
                f"take it out of {file}; gpuhost then declares the repository, with its checked key",
            )


def _ports(reading: HostReading, catalog: Catalog, names: list[str]) -> Iterator[Finding]:
    for name in names:
        port = catalog.services[name].port
        if port in reading.listening and port not in reading.published:
            process = reading.listening[port]
            yield (
                f"port {port} of `{name}` is already in use{f' by {process}' if process else ''}",
                f"stop that program, or give `services.{name}.port` another port",
            )


def _names(reading: HostReading, names: list[str]) -> Iterator[Finding]:
    """Docker gives a name once: a foreign container keeps it from a service."""
    for container in reading.containers:
        if not container.service and container.name in names:
            yield (
                f"a container that is not gpuhost's has the name of the service `{container.name}`",
                f"rename it (`docker rename {container.name} ...`) or remove it, then run again",
            )


def _accounts(reading: HostReading, catalog: Catalog) -> Iterator[Finding]:
    """The name and ids of each account must be free, or already its own."""
    for where, account in catalog.accounts().items():
        yield from _account(reading, catalog, where, account)


def _account(reading: HostReading, catalog: Catalog, where: str, account: Account) -> Iterator[Finding]:
    for kind, ids, number in (("user", reading.users, account.uid), ("group", reading.groups, account.gid)):
        field = "uid" if kind == "user" else "gid"
        for name, taken in ids.items():
            if name == account.name and taken != number:
                yield (
                    f"the {kind} `{name}` exists with the {field} {taken}, not {number}",
                    f'set `{where}` to another name, or to {{"{field}": {taken}}}',
                )
            elif taken == number and name != account.name:
                free = free_id(catalog.accounts().values(), [*reading.users.values(), *reading.groups.values()])
                yield (
                    f"the {field} {number} is already that of the {kind} `{name}`",
                    f'set `{where}["{field}"]` to a free one, such as {free}',
                )


_ROOTS = "`data_root`, `tools_root`, `state_root`"


def _above(reading: HostReading) -> Iterator[Finding]:
    """Whoever may rename a folder above ours puts his own in its place, and root and Docker take it for ours."""
    for folder in reading.above:
        is_link, mode = folder.kind == "symbolic link", int(folder.mode, 8)
        # Of a link only the owner counts, of root's own group who is in it.
        others = not is_link and (mode & 0o002 or (mode & 0o020 and folder.gid != 0))
        if folder.uid != 0:
            yield (
                f"the {folder.kind} {folder.path}, which leads to gpuhost's folders, belongs to the uid {folder.uid}",
                f"`chown -h root:root {folder.path}`, or choose other folders ({_ROOTS})",
            )
        elif others:
            yield (
                f"others than root may write to {folder.path} (mode {folder.mode}), which holds gpuhost's folders",
                f"`chmod go-w {folder.path}`, or choose other folders ({_ROOTS})",
            )


def exposed(services: Mapping[str, Service]) -> list[tuple[str, str]]:
    """(service, sentence) for each that more than this host reaches."""
    return [
        (
            name,
            f"port {each.port} is open to the network ({each.bind}); it wants {each.auth.token if each.auth else ''}",
        )
        for name, each in services.items()
        if not ipaddress.ip_address(each.bind).is_loopback
    ]


def limits(reading: HostReading, services: Mapping[str, Service]) -> list[tuple[str, str]]:
    """(service, sentence) for each limit that this host cannot give."""
    have = reading.memory_kib * 1024
    found = [
        (name, f"its limit of {each.memory} of memory is above this host's {have / 2**30:.0f} GiB: it limits nothing")
        for name, each in services.items()
        if size_bytes(each.memory) > have
    ]
    return found + [
        (name, f"it gets {reading.cpus} of the {entry.cpus:g} cores that it asks for: this host has no more")
        for name, entry in services.items()
        if entry.cpus > reading.cpus
    ]


def memory_together(reading: HostReading, services: Mapping[str, Service]) -> str:
    """A sentence when those that always run may together take more memory than there is, else ""."""
    running = {name: size_bytes(each.memory) for name, each in services.items() if each.start == "always"}
    have, limit = reading.memory_kib * 1024, sum(running.values())
    if limit <= have:
        return ""
    return (
        f"{', '.join(running)} may together take {limit / 2**30:.0f} GiB of memory, this host has {have / 2**30:.0f}: "
        'lower `memory`, or let one start `"on-demand"`'
    )


def _subnets(reading: HostReading, catalog: Catalog, names: list[str]) -> Iterator[Finding]:
    networks, offered = {catalog.services[name].network for name in names}, list[Subnet]()
    for network in sorted(networks) if not reading.docker_silent else ():
        wanted = ipaddress.ip_network(catalog.networks[network].subnet)
        own = reading.networks.get(network)
        if own and str(wanted) in own:
            if reading.network_options.get(network) != options(network):
                yield (
                    f"a Docker network `{network}` exists that was not made as gpuhost makes it: its containers would "
                    "not be kept from the host and from each other",
                    f"remove its containers, then it: docker network rm {network}; the next apply makes them again",
                )
            continue
        if own is not None:
            yield (
                f"a Docker network `{network}` exists with the subnet {' '.join(own) or 'none'}, not {wanted}",
                f'set `networks["{network}"]["subnet"]` to that, or remove it: docker network rm {network}',
            )
            continue
        clash = _clash(reading, wanted)
        if clash:
            offered.append(free := _free(reading, catalog, offered))
            yield (
                f"the subnet {wanted} of network `{network}` is already in use: {clash}",
                f'set `networks["{network}"]["subnet"]` to a free one, such as {free}',
            )


# What is offered instead of a subnet that is taken, in this order.
_PRIVATE = [ipaddress.ip_network(f"172.{each}.0.0/16") for each in range(20, 32)]
_PRIVATE += [ipaddress.ip_network(f"10.{each}.0.0/16") for each in range(99, 256)]


def _clash(reading: HostReading, wanted: Subnet) -> str:
    for other, subnets in reading.networks.items():
        if any(wanted.overlaps(each) for each in _networks(subnets)):
            return f"Docker network `{other}` has {' '.join(subnets)}"
    for interface, network in reading.routes:
        if wanted.overlaps(network):
            return f"{network} is routed over {interface}"
    return ""


def _networks(subnets: Iterable[str]) -> Iterator[Subnet]:
    """Subnets as Docker keeps them; older engines kept host bits."""
    for subnet in subnets:
        with contextlib.suppress(ValueError):
            yield ipaddress.ip_network(subnet, strict=False)


def _free(reading: HostReading, catalog: Catalog, offered: Iterable[Subnet]) -> Subnet:
    taken: list[Subnet] = [*offered, *(network for _, network in reading.routes)]
    taken += [each for subnets in reading.networks.values() for each in _networks(subnets)]
    taken += [ipaddress.ip_network(network.subnet) for network in catalog.networks.values()]
    return next((net for net in _PRIVATE if not any(net.overlaps(other) for other in taken)), _PRIVATE[-1])


def sudo_problem(answer: str, has_password: bool) -> Cause | None:
    """Why commands cannot run as root. `answer`: `sudo=root|absent|ok|<sudo's own words>`."""
    said = answer.partition("sudo=")[2].strip()
    if said in ("root", "ok"):
        return None
    if said == "absent":
        return Cause("the login user is not root, and there is no sudo on the host", "install sudo, or log in as root")
    if "password" in said or "interactive authentication" in said:
        if has_password:
            return None
        return Cause("sudo asks for a password", "run again with --use-sudo-password, or allow NOPASSWD for this user")
    return _refused_by_sudo(said)


def root_problem(ok: bool, said: str) -> Cause | None:
    """Why `id -u`, run with the connection's privileges, was not root's. `said`: its output, or sudo's own words."""
    last = said.strip().rpartition("\n")[2]
    if not ok:
        return _refused_by_sudo(last)
    if last == "0":
        return None
    return Cause(
        "commands do not run as root on this host", "set `_sudo` to True for it in the inventory, or log in as root"
    )


def _refused_by_sudo(said: str) -> Cause:
    if "incorrect password" in said:
        return Cause("sudo refuses the password", "type the login user's own password")
    return Cause(f"sudo refuses: {said or 'no word'}", "add the login user to the group sudo")
