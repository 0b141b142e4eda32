"""What containers have of the host's folders: made anew when it is gone; never a way to what another one has."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from ..instruments.converged import converged_host
from ..instruments.proof import Proof
from ..world.world import World
from .test_services import changed, inspect, planned_then_done

pytestmark = [pytest.mark.rehearsal, pytest.mark.sampled(3)]
SERVICE, OTHER = "comfyui-qwen", "orchestrator"
OUTPUTS = f"/srv/genai/outputs/{SERVICE}"
DATA = f"/srv/genai/services/{SERVICE}/data"
SEED = f"/srv/genai/services/{SERVICE}/seeds/session-key.txt"


@pytest.fixture(scope="module")
def converged(furnished: World) -> Iterator[Proof]:
    """A copy of a host that went the whole path."""
    proof = Proof(converged_host(furnished, "binds"))
    yield proof
    furnished.destroy(proof.host)


def uid(proof: Proof, container: str) -> int:
    """As whom a container's process runs, by the host's kernel."""
    pid = inspect(proof, container)["State"]["Pid"]
    return int(proof.host.root(f"stat -c %u /proc/{pid}", check=True).stdout)


def test_a_folder_made_anew_under_a_running_container_is_seen_and_mended(converged: Proof) -> None:
    """What is saved in the deleted folder would be lost, and the service answers on."""
    host = converged.host
    host.root(f"rm -r {OUTPUTS}", check=True)
    gone = f"{OUTPUTS} was removed after it started: it holds the old one as /outputs"
    plan = converged.control.plan()
    assert changed(plan) == {SERVICE: ("recreate", gone)} and ("stacks", OUTPUTS, "create") in plan.changes
    host.root(f"install -d -m 2770 -o genai-{SERVICE} -g genai {OUTPUTS}", check=True)
    host.root(f"docker exec {SERVICE} sh -c 'echo picture > /outputs/lost.png'")
    assert host.root(f"ls {OUTPUTS}", check=True).stdout == ""
    lost = f"{OUTPUTS} was made anew after it started: it holds the old one as /outputs"
    assert [error["what"] for error in converged.control.verify().errors] == [f"{SERVICE}: {lost}"]
    plan = planned_then_done(converged, {SERVICE: "recreate"})
    assert changed(plan)[SERVICE] == ("recreate", lost) and len(plan.changes) == 1
    host.root(f"docker exec {SERVICE} sh -c 'echo picture > /outputs/kept.png'", check=True)
    assert host.root(f"cat {OUTPUTS}/kept.png", check=True).stdout == "picture\n"
    converged.nothing_to_do()


@pytest.mark.core
def test_each_service_runs_as_an_account_of_its_own(converged: Proof) -> None:
    """The orchestrator's is nobody else's; what one has, another one cannot even list."""
    host = converged.host
    ids = [uid(converged, SERVICE), uid(converged, OTHER)]
    shared = int(host.root("id -u genai", check=True).stdout)
    assert len({*ids, shared}) == 3
    as_other = f"setpriv --reuid={ids[1]} --regid={ids[1]} --clear-groups --"
    for path in (DATA, SEED, OUTPUTS, f"/srv/genai/stacks/{SERVICE}/secrets/{SERVICE}"):
        assert host.root(f"{as_other} cat {path}").rc and host.root(f"{as_other} ls {path}/").rc, path
    owned = f"find / -xdev -path /proc -prune -o -path /var/lib/docker -prune -o -uid {ids[1]} -print"
    assert host.root(owned).stdout == ""


def writable(proof: Proof, number: int) -> list[str]:
    """What an account may write of all that is ours and the system's, by the kernel's own word; a folder without what
    lies in it."""
    where = "/srv /opt /etc /usr /var/lib/gpuhost /run/gpuhost /root /home"
    find = f"find {where} -xdev ! -type l -writable -print -prune"
    return sorted(proof.host.root(f"setpriv --reuid={number} --regid={number} --clear-groups -- {find}").stdout.split())


def test_root_works_in_no_folder_that_an_account_writes(converged: Proof) -> None:
    """Secret files, configuration, programs, manifests, seeds' folders, what others make: nobody can put a link there,
    so nobody can make root write, give away or mount something else."""
    host = converged.host
    assert writable(converged, uid(converged, SERVICE)) == sorted([DATA, SEED, OUTPUTS])
    assert writable(converged, uid(converged, OTHER)) == ["/run/gpuhost/broker/socket"]
    install = host.root("ls -d /srv/genai/installs/comfyui/*", check=True).stdout.split()
    # Of its own, and as the group that tidies up.
    mine = ["/srv/genai/models", "/srv/genai/cache/huggingface", "/var/lib/gpuhost/models", *install, OUTPUTS]
    assert writable(converged, int(host.root("id -u genai", check=True).stdout)) == sorted(mine)


# What a container that was broken into can do to turn what it is given elsewhere: rename and link over each mount, put
# a link in place of each file that it can write, and links beside them under the names of all that it is given; then
# it ends itself.
ATTACK = """
for mounted in $(cut -d' ' -f5 /proc/self/mountinfo); do
  case $mounted in /proc*|/sys*|/dev*|/tmp*|/) continue;; esac
  mv $mounted $mounted.moved; rmdir $mounted; ln -sfT @SECRET@ $mounted
  for folder in /data /outputs; do ln -sf @SECRET@ $folder/${mounted##*/}; done
done
for folder in /data /outputs; do
  find $folder -type f > /tmp/files
  while read -r file; do mv $file $file.moved && ln -s @SECRET@ $file; done < /tmp/files
  for name in session-key.txt seeds secrets data outputs; do ln -s @SECRET@ $folder/$name; done
done
kill -INT 1
"""


def mounts(proof: Proof) -> list[str]:
    """Which folder or file of which file system is where, in the container that runs."""
    pid = inspect(proof, SERVICE)["State"]["Pid"]
    return sorted(proof.host.root(f"cut -d' ' -f4-5 /proc/{pid}/mountinfo", check=True).stdout.splitlines())


def test_what_a_container_writes_is_no_way_to_what_another_one_has(converged: Proof) -> None:
    """It does all that it can, and Docker starts it again: nothing else than before is mounted, and the other
    service's secret stays unread."""
    host, own = converged.host, uid(converged, SERVICE)
    secret = f"/srv/genai/stacks/{OTHER}/.env.docker"
    inside = f"docker exec -u {own}:{own} {SERVICE} sh -c"
    host.root(f"{inside} 'echo x > /outputs/a.png; echo x > /data/own'", check=True)
    host.root(f"cp -a {DATA} /root/data && cp -a {OUTPUTS} /root/outputs && cp -a {SEED} /root/seed", check=True)
    before, had = inspect(converged, SERVICE), mounts(converged)
    since = host.root("date +%s.%N", check=True).stdout.strip()
    host.root(f"{inside} {shlex.quote(ATTACK.replace('@SECRET@', secret))}")
    events = f"timeout 60 docker events --since {since} --filter container={SERVICE} --filter event=start"
    listens = f"{{ {events} & echo $! >&3; wait; }} 3>/run/listens"
    first = f"{listens} | {{ read -r line; echo $line; kill $(cat /run/listens); }}; rm /run/listens"
    assert " container start " in host.root(first).stdout, "it did not start again by itself"
    after = inspect(converged, SERVICE)
    assert (after["Id"], after["HostConfig"]) == (before["Id"], before["HostConfig"])
    assert after["State"]["StartedAt"] != before["State"]["StartedAt"]
    links = host.root(f"find {DATA} {OUTPUTS} -lname {secret}", check=True).stdout.split()
    assert {f"{DATA}/own", f"{OUTPUTS}/a.png", f"{DATA}/session-key.txt"} <= {*links}, "the attack did nothing"
    assert mounts(converged) == had
    read = host.root(f"{inside} 'cat /data/* /outputs/* {secret} /app/nodes/auth/ComfyUI-Login/.secret-key.txt'")
    assert "TOKEN" not in read.stdout and host.root(f"cat {SEED}").stdout == host.root("cat /root/seed").stdout
    assert converged.control.plan().changes == []
    host.root(f"docker stop {SERVICE} && rm -r {DATA} {OUTPUTS}", check=True)
    host.root(f"mv /root/data {DATA} && mv /root/outputs {OUTPUTS} && rm /root/seed", check=True)
    planned_then_done(converged, {SERVICE: "recreate"})
    converged.nothing_to_do()


def test_a_path_that_others_can_turn_elsewhere_is_not_mounted(converged: Proof) -> None:
    """By an apply, whose plan mends what is ours; at boot; and above our folders not even a plan is made."""
    host, folder = converged.host, f"/srv/genai/services/{SERVICE}"
    host.root(f"chmod 777 {folder}", check=True)
    host.root("systemctl restart gpuhost-services.service")
    assert host.root("systemctl is-failed gpuhost-services.service").stdout.strip() == "failed"
    told = host.root("journalctl -u gpuhost-services.service -o cat --no-pager").stdout
    assert f"others than root may write to {folder}, and put a link there" in told
    assert not inspect(converged, SERVICE)["State"]["Running"] and inspect(converged, OTHER)["State"]["Running"]
    planned_then_done(converged, {SERVICE: "recreate"})
    converged.nothing_to_do()
    host.root("chmod o+w /srv", check=True)
    refused = converged.control.plan()
    assert [error["what"] for error in refused.errors] == [
        "others than root may write to /srv (mode 757), which holds gpuhost's folders"
    ]
    host.root("chmod o-w /srv", check=True)


def test_a_host_whose_services_shared_one_account_gets_the_layout_in_one_apply(converged: Proof) -> None:
    """As the version before left it: every service the shared account's uid, its folders too, one folder of outputs."""
    host = converged.host
    mine = [uid(converged, SERVICE), uid(converged, OTHER)]
    for stack, number in ((SERVICE, mine[0]), (OTHER, mine[1])):
        file = f"/srv/genai/stacks/{stack}/docker-compose-{stack}.yml"
        host.root(f"sed -i 's/{number}:{number}/10001:10001/g; s#/outputs/{SERVICE}#/outputs#g' {file}", check=True)
    host.root(
        f"docker rm -f {SERVICE} {OTHER}; rmdir {OUTPUTS} || rm -r {OUTPUTS}; echo old > /srv/genai/outputs/old.png;"
        f"chown -R genai:genai /srv/genai/outputs /srv/genai/services/{SERVICE} /srv/genai/cache;"
        f"chown root:root /srv/genai/services/{SERVICE}; chmod 2775 /srv/genai/outputs /srv/genai/cache;"
        f"chmod 700 /srv/genai/services/{SERVICE}/seeds;"
        f"chown root:genai /srv/genai/stacks/{SERVICE}/secrets/{SERVICE};"
        f"chown genai:genai /srv/genai/stacks/{SERVICE}/secrets/{SERVICE}/*;"
        f"userdel genai-{SERVICE}; userdel genai-{OTHER};"
        # A link of the account's to a file of root's, and a file of root's that must stay root's.
        f"ln -s /etc/shadow {DATA}/link; mkdir {DATA}/deep; echo x > {DATA}/deep/er; chown -R genai: {DATA}/deep",
        check=True,
    )
    shadow = host.root("stat -c '%U:%G %a' /etc/shadow", check=True).stdout
    for stack in (SERVICE, OTHER):
        folder = f"/srv/genai/stacks/{stack}"
        up = f"docker compose -f {folder}/docker-compose-{stack}.yml --env-file {folder}/.env.docker up -d"
        host.root(up, check=True)
    assert uid(converged, SERVICE) == 10001
    plan = planned_then_done(converged, {SERVICE: "recreate", OTHER: "recreate"})
    reasons = {each["resource"]["name"]: each["reason"] for each in (plan.document or {})["changes"]}
    own = f"genai-{SERVICE}"
    assert reasons[DATA] == f"its owner is genai:genai, not {own}:{own}, and so is what it holds"
    assert reasons[SEED] == f"its owner is genai:genai, not {own}:{own}"
    assert reasons["/srv/genai/outputs"] == "its mode is 2775, not 755, its owner is genai:genai, not root:root"
    assert reasons[OTHER] == f"user: 10001:10001 -> {mine[1]}:{mine[1]}"
    assert [uid(converged, SERVICE), uid(converged, OTHER)] == mine
    assert host.root("stat -c '%U:%G %a' /etc/shadow", check=True).stdout == shadow
    assert host.root(f"stat -c %U {DATA}/link {DATA}/deep/er", check=True).stdout.split() == [own, own]
    assert host.root("cat /srv/genai/outputs/old.png", check=True).stdout == "old\n"  # nothing is lost
    converged.nothing_to_do()
    converged.answers("verify after the accounts were split")
