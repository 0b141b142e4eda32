"""The models of a converged host: asked for before the first byte, proved, freed, imported, with and without a hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest

from ..instruments.control import Told
from ..instruments.converged import converged_host
from ..instruments.proof import Proof
from ..instruments.refusal import site, told_once
from ..world.snapshot import diff_snapshots
from ..world.world import STANDINS, World

pytestmark = [pytest.mark.rehearsal, pytest.mark.sampled(4)]
REPO, FILE = "acme/behind-a-gate", "weights/größe one.safetensors"
WEIGHTS = b"weights behind a gate\n" * 4096
VAE = "/srv/genai/models/vae/qwen_image_vae.safetensors"
REPO_OF_VAE = "/srv/genai/cache/huggingface/hub/models--Comfy-Org--Qwen-Image_ComfyUI"
TOKEN, POOR, SCOPELESS = "hf_rehearsal0good", "hf_rehearsal0poor", "hf_rehearsal0scopeless"
ASKED = ["qwen-image-edit", "qwen-image-encoder", "qwen-image-vae"]
GATED = {
    "repo": REPO,
    "gated": True,
    "allow": ["weights/", "config.json"],
    "links": {FILE: "vae/gated one.safetensors"},
}


@pytest.fixture(scope="module")
def converged(furnished: World) -> Iterator[Proof]:
    """A copy of a host that went the whole path; the hub has a gated repository, too."""
    files = {FILE: WEIGHTS, "config.json": b"{}", "README.md": b"# not asked for\n"}
    furnished.hub_add(REPO, dict(files), gated=True)
    for token, repos in ((TOKEN, [REPO]), (POOR, [])):
        furnished.hub_grant(token, repos)
    furnished.hub_grant_fine_grained(SCOPELESS)
    proof = Proof(converged_host(furnished, "models"))
    yield proof
    furnished.destroy(proof.host)


def with_gated(proof: Proof) -> AbstractContextManager[None]:
    """The site names the gated model, and comfyui-qwen needs it."""
    services = {"comfyui-qwen": {"models": [*ASKED, "behind-a-gate"]}}
    return site(proof.host, f"models = { {'behind-a-gate': GATED}!r}\nservices = {services!r}\n")


def set_token(proof: Proof, token: str | None) -> None:
    path = proof.host.run_dir / "secrets" / f"{proof.host.name}.env"
    kept = [line for line in path.read_text().splitlines() if not line.startswith("HF_TOKEN=")]
    path.write_text("\n".join([*kept, *([f"HF_TOKEN={token}"] if token else [])]) + "\n")


def models_of(told: Told) -> dict[str, dict[str, Any]]:
    assert told.document
    return {model["name"]: model for model in told.document["models"]}


def nothing_to_do(proof: Proof) -> None:
    told = proof.control.plan()
    assert (told.code, told.changes) == (0, []), told


def test_what_is_there_is_asked_of_nobody_and_works_without_a_hub(converged: Proof, furnished: World) -> None:
    furnished.forget_requests()
    told = converged.control.models("status")
    assert told.code == 0, told
    found = models_of(told)
    assert sorted(found) == ASKED
    for model in found.values():
        assert (model["state"], model["used_by"], model["checked_against"]) == ("complete", ["comfyui-qwen"], "hub")
        assert model["verified_ns"] and model["disk_bytes"] == model["bytes"] and len(model["commit"]) == 40
    shown = converged.control.models_text("status")
    assert shown.returncode == 0 and "verified 20" in shown.stdout, shown
    assert all(len(line) <= 80 for line in shown.stdout.splitlines()), shown.stdout
    with furnished.misbehave("hub", "down"):
        nothing_to_do(converged)
        assert converged.control.verify().code == 0
        assert converged.control.models("verify").code == 0
    assert furnished.requests("hub") == []


def test_a_host_whose_network_is_away_is_planned_verified_and_gets_a_new_secret(
    converged: Proof, furnished: World
) -> None:
    """As docs/howto/offline.md says: nothing answers the host nor this side, but they each other."""
    control = converged.control
    with ExitStack() as away:
        away.enter_context(converged.host.network_cut())
        for name in STANDINS:
            away.enter_context(furnished.misbehave(name, "down"))
        nothing_to_do(converged)
        assert control.apply().code == 0
        assert control.verify().code == 0
        assert control.models("status").code == 0
        assert control.text("status").returncode == 0
        assert control.text("logs", "orchestrator", "--tail", "1").returncode == 0
        assert control.secrets("rotate", "ORCHESTRATOR_TOKEN").code == 0
        nothing_to_do(converged)


@pytest.mark.core
def test_every_container_reads_them_as_its_own_user(converged: Proof) -> None:
    """The models folder and the cache, by the user of the service, from inside."""
    host = converged.host
    inside = (
        "id -u; find -L /models /cache/huggingface/hub/models--*/snapshots -type f -name '*.safetensors' -print0 | "
        "xargs -0 sha256sum | sort -u | cut -c-64 | sort | uniq -c"
    )
    uid, *sums = host.root(f"docker exec comfyui-qwen sh -c {json.dumps(inside)}", check=True).stdout.split("\n")[:-1]
    assert uid == host.root("id -u genai-comfyui-qwen").stdout.strip() != "0"
    outside = host.root("find /srv/genai/models -type f | xargs sha256sum | cut -c-64 | sort -u").stdout.split()
    # Each is seen twice: by its link and by its snapshot.
    assert sorted(line.split() for line in sums) == sorted([["2", each] for each in outside]) and len(outside) == 3


def test_a_gated_model_is_refused_in_the_plan_with_what_to_do(converged: Proof) -> None:
    """Token absent, wrong, licence not accepted, scope missing; nothing on the host changes."""
    host, page = converged.host, f"https://huggingface.co/{REPO}"
    tokens = "https://huggingface.co/settings/tokens"
    before = host.snapshot()
    with with_gated(converged):
        for token, what, hint in (
            (None, f"`{REPO}` is gated, and there is no Hugging Face token", page),
            ("hf_of0nobody", "the hub refuses the token", tokens),
            (POOR, f"has not accepted the licence of `{REPO}`", page),
            (SCOPELESS, "the token may not read gated repositories", tokens),
        ):
            set_token(converged, token)
            told = converged.control.plan()
            told_once(told, what, hint)
            assert not token or token not in json.dumps(told.document) + told.stderr
    set_token(converged, None)
    assert not diff_snapshots(before, host.snapshot())


def test_a_model_comes_and_goes(converged: Proof, furnished: World) -> None:
    """The plan names its files with their sizes; what is taken off the list is reclaimable, and freed on demand."""
    host, control = converged.host, converged.control
    furnished.forget_requests()
    with with_gated(converged):
        set_token(converged, TOKEN)
        told = control.plan()
        assert told.code == 2 and told.document, told
        [change] = [each for each in told.document["changes"] if each["resource"]["name"] == "behind-a-gate"]
        assert change["action"] == "fetch" and change["impact"]["download_bytes"] == len(WEIGHTS) + 2
        assert [(each["field"], each["after"]) for each in change["diff"]] == [
            ("config.json", "fetch, 2 B"),
            (FILE, "fetch, 90.1 kB"),
        ]
        assert any("to fetch" in note["message"] for note in told.document["notes"])
        assert not [each for each in furnished.requests("hub") if "/resolve/" in each]
        assert control.apply().code == 0
        assert models_of(control.models("status"))["behind-a-gate"]["state"] == "complete"
    set_token(converged, None)
    link = "/srv/genai/models/vae/gated one.safetensors"
    assert control.apply().code == 0  # the service needs it no more, and nothing is removed by itself
    assert host.root(f"sha256sum '{link}'").rc == 0
    told = control.models("status")
    left = models_of(told)["behind-a-gate"]
    assert told.code == 0 and (left["state"], left["disk_bytes"]) == ("unused", len(WEIGHTS) + 2)
    refused = control.models_text("prune")
    assert refused.returncode == 1 and "nobody can be asked" in refused.stderr and "behind-a-gate" in refused.stdout
    assert host.root(f"sha256sum '{link}'").rc == 0
    told = control.models("prune")
    assert told.code == 0 and told.changes == [("models", "behind-a-gate", "remove")], told
    cache = "/srv/genai/cache/huggingface/hub"
    assert host.root(f"ls '{link}' {cache}/models--{REPO.replace('/', '--')}").rc != 0
    assert host.root(f"find {cache} /srv/genai/models -type f -size 88k").stdout == ""
    assert sorted(models_of(control.models("status"))) == ASKED


def test_wrong_bytes_are_found_by_verify_and_fetched_again(converged: Proof) -> None:
    """Of the right length, with the old times: only reading finds them."""
    host, control = converged.host, converged.control
    # By the blob, and linked again: a restored host's files have one name each once they are written to.
    damage = f"b=$(readlink -f {REPO_OF_VAE}/snapshots/*/split_files/vae/*); touch -r $b /tmp/then; "
    damage += f"printf X | dd of=$b conv=notrunc; touch -r /tmp/then $b; ln -f $b {VAE}"
    host.root(damage, check=True)
    told = control.models("verify")
    assert told.code == 1 and told.document and "qwen-image-vae" in json.dumps(told.document["errors"]), told
    assert models_of(control.models("status"))["qwen-image-vae"]["state"] == "absent"
    assert control.apply().code == 0
    assert host.root("ls /srv/genai/models/vae/*.replaced-*", check=True).stdout.count("\n") == 1
    nothing_to_do(converged)


def test_what_lies_elsewhere_on_the_host_is_imported_without_a_download(converged: Proof, furnished: World) -> None:
    host, control = converged.host, converged.control
    old = "/srv/old ComfyUI/models"
    host.root(
        f"mkdir -p '{old}/vae' && cp {VAE} '{old}/vae/renamed.safetensors' && echo junk > '{old}/notes.txt' && "
        f"cp {VAE} '{old}/vae/broken.safetensors' && printf X | dd of='{old}/vae/broken.safetensors' conv=notrunc && "
        f"chown -R admin '{old}' && inode=$(stat -c %i {VAE}) && "
        f"find /srv/genai/models {REPO_OF_VAE} -inum $inode -delete",
        check=True,
    )
    furnished.forget_requests()
    shown = control.models_text("import", old)
    assert shown.returncode == 1 and f"no missing file of a model: {old}/notes.txt (5 B)" in shown.stderr, shown
    told = control.models("import", old)
    assert told.code == 0 and told.changes == [("models", "qwen-image-vae", "import")], told
    same = host.root(f"stat -c '%i %U %a' {VAE} '{old}/vae/renamed.safetensors'", check=True).stdout.splitlines()
    assert same[0] == same[1] and same[0].endswith(" genai 644"), same
    assert host.root(f"stat -c %U '{old}/vae/broken.safetensors'").stdout == "admin\n"
    assert models_of(control.models("status"))["qwen-image-vae"]["state"] == "complete"
    told = control.plan()
    assert [change for change in told.changes if change[0] == "models"] == [], told
    assert not [each for each in furnished.requests("hub") if "/resolve/" in each]
