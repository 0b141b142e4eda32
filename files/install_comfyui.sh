#!/bin/bash
# Installs one pinned ComfyUI into /app, once: a one-shot container of gpuhost/comfyui, never the start path.
#
# Read from the environment:
#   INSTALL_SPEC     the whole spec, made by the control side: JSON on one line; the final stamp begins with it
#   COMFYUI_URL      git repository of ComfyUI         COMFYUI_REF   its commit (40 hex)
#   TORCH_INDEX_URL  package index of the torch build  TORCH_PACKAGES "torch==2.8.0 torchvision==0.23.0 ..."
#   AUTH             1: install ComfyUI-Login and the guard, from LOGIN_URL at LOGIN_REF; 0: neither
#   EXTRA_NODES      optional, one custom node a line: "name url commit"
#   EXTRA_REQUIREMENTS  optional, lines for pip next to the requirements of ComfyUI and its nodes. Those are open
#                    ranges: what the newest packages break is pinned here (.gpuhost/packages.txt: what it became)
#   REQUIREMENTS_LOCK  optional, a file with every package of the venv, torch included, in one version with the sha256
#                    of its files: pip takes these wheels and nothing else
#   MIN_FREE_MIB     optional, what a whole install needs on the disk of /app (default 12288)
# pip and git read their own variables (PIP_INDEX_URL, PIP_CERT, GIT_SSL_CAINFO, https_proxy, ...).
#
# What lies in /app afterwards:
#   ComfyUI/  nodes/extra/<name>/  venv/                   AUTH=1: nodes/auth/{ComfyUI-Login,gpuhost-guard}/
#   ComfyUI/login/, nodes/auth/ComfyUI-Login/.secret-key.txt   empty: mount points for a service's own files
#   .gpuhost/installed.json                                the final stamp
#
# How it survives kill -9: a checkout is made in .gpuhost/tmp and renamed into place, complete. Paths in a
# venv are absolute, so the venv grows in place; a marker stands in it while pip writes, and a venv found with
# the marker is made anew (pip's cache stays until the end; what the index lets pip cache is downloaded once).
# Whatever we make carries its own stamp, <dir>/.gpuhost/, the hash of what made it; only directories that carry
# one are removed.
#
# Exit status: 0 installed (now or before), 1 not installed: one sentence and a hint on stderr.
set -euo pipefail

readonly APP=/app
readonly STATE=$APP/.gpuhost
readonly FINAL=$STATE/installed.json
readonly TMP=$STATE/tmp
readonly LOG=$STATE/last-command.log
readonly TREE=$APP/ComfyUI
readonly VENV=$APP/venv
readonly LOGIN=$APP/nodes/auth/ComfyUI-Login
readonly GUARD=$APP/nodes/auth/gpuhost-guard
readonly GUARD_SOURCE=/opt/gpuhost/guard
readonly PY=$VENV/bin/python
readonly LOCK=${REQUIREMENTS_LOCK-}

say() { printf '%s\n' "$*"; }

explained=
die() { # sentence, hint
    explained=1
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

no_silent_end() {
    local status=$?
    [ "$status" = 0 ] || [ -n "$explained" ] || die "the installer stopped with status $status" "see the last lines above"
}
trap no_silent_end EXIT

redact() { sed -u -E 's#://[^/@[:space:]]+@#://***@#g'; }

digest() { printf '%s\n' "$@" | sha256sum | cut -d' ' -f1; }

# Runs a command: its output goes to our log as it comes, and to $LOG for the explanation of a failure.
logged() { "$@" 2>&1 </dev/null | redact | tee "$LOG"; }

log_says() { grep -Eiq -- "$1" "$LOG"; }
log_line() { grep -E -m 1 -- "$1" "$LOG" || true; }

stage_number=0
stage() { # name, what happens
    stage_number=$((stage_number + 1))
    say "stage $stage_number/$stage_count $1: $2" | redact
}

installed() {
    # One read. The spec stands first on the only line.
    local line
    [ -f "$FINAL" ] || return 1
    read -r line <"$FINAL" || return 1
    [[ $line == "{\"spec\": $INSTALL_SPEC,"* ]] && [ -f "$TREE/main.py" ] && [ -x "$PY" ]
}

# --- input ---------------------------------------------------------------------------------------------------

need() { # variable, pattern, what it must be
    local value=${!1-}
    [[ $value =~ $2 ]] || die "$1 is '$(redact <<<"$value")', it must be $3" "set it in the environment of the installer"
}

check_input() {
    local url='^[^-[:space:]][^[:space:]]*$' ref='^[0-9a-f]{40}$' name='^[A-Za-z0-9][A-Za-z0-9._-]*$'
    need COMFYUI_URL "$url" "a repository's URL"
    need COMFYUI_REF "$ref" "a commit (40 hex digits)"
    need TORCH_INDEX_URL "$url" "the URL of a package index"
    need TORCH_PACKAGES '^torch==[^[:space:]]+( [a-z0-9_-]+==[^[:space:]]+)*$' "torch==VERSION and what goes with it"
    need AUTH '^[01]$' "0 or 1"
    if [ "$AUTH" = 1 ]; then
        need LOGIN_URL "$url" "a repository's URL"
        need LOGIN_REF "$ref" "a commit (40 hex digits)"
        [ -f "$GUARD_SOURCE/__init__.py" ] ||
            die "the image holds no guard node in $GUARD_SOURCE" "run the installer in the gpuhost/comfyui image"
    fi
    [ -z "$LOCK" ] || [ -s "$LOCK" ] || die "there is no lock in $LOCK" "mount the file there that REQUIREMENTS_LOCK names"
    node_names=() node_urls=() node_refs=()
    local node_name node_url node_ref rest
    while read -r node_name node_url node_ref rest; do
        [ -n "$node_name" ] || continue
        [[ $node_name =~ $name && $node_url =~ $url && $node_ref =~ $ref && -z $rest ]] ||
            die "EXTRA_NODES has the line '$node_name $node_url $node_ref $rest'" "a line is: name url commit (40 hex digits)"
        node_names+=("$node_name") node_urls+=("$node_url") node_refs+=("$node_ref")
    done <<<"${EXTRA_NODES-}"
}

# --- what is ours --------------------------------------------------------------------------------------------

ours() { [ -d "$1/.gpuhost" ]; }

must_be_ours() {
    [ ! -e "$1" ] || ours "$1" || die "$1 exists and was not made by this installer" "move it away and run again"
}

remove() { # a directory that we made: renamed first, so that no half of it ever stands in its place
    must_be_ours "$1"
    [ -e "$1" ] || return 0
    mkdir -p "$TMP/trash"
    mv "$1" "$(mktemp -d "$TMP/trash/XXXXXX")"
    rm -rf "$TMP/trash"
}

put_in_place() { # new directory, destination
    mkdir -p "$(dirname "$2")"
    sync -f "$STATE"
    remove "$2"
    mv "$1" "$2"
}

# --- checkouts -----------------------------------------------------------------------------------------------

git_here() { logged git -c gc.auto=0 -c maintenance.auto=false -c advice.detachedHead=false "$@"; }

# What git, its TLS library and pip say when they do not reach the other side.
readonly NOT_REACHED="could not resolve|name or service not known|name resolution|connection|connect to|couldn.t connect|\
timed out|unable to access|max retries|certificate|sslerror|proxyerror"
readonly NO_ROOM="no space left|disk quota exceeded"

explain_git() { # url
    if log_says "$NO_ROOM"; then
        die "the disk of $APP is full" "free space there and run again"
    elif log_says 'could not read username|authentication failed|not found|does not appear to be a git'; then
        die "there is no readable git repository at $(redact <<<"$1")" "check the URL in the host's data"
    elif log_says "$NOT_REACHED"; then
        die "the repository $(redact <<<"$1") cannot be reached: $(tail -n 1 "$LOG")" \
            "check network, DNS, proxy and CA of the containers on this host, then run again"
    fi
    die "git failed on $(redact <<<"$1"): $(tail -n 1 "$LOG")" "the lines above are git's own"
}

fetch_commit() { # url, commit: fetched into the repository we stand in
    git_here fetch --no-tags --depth 1 origin "$2" && return
    # Some servers give no commit by its hash, or nothing shallow: then everything.
    log_says 'unadvertised object|not our ref|remote ref|shallow' || explain_git "$1"
    git_here fetch origin '+refs/heads/*:refs/remotes/origin/*' '+refs/tags/*:refs/tags/*' || explain_git "$1"
    git rev-parse -q --verify "$2^{commit}" >/dev/null ||
        die "$2 is not a commit of $(redact <<<"$1")" "check the pinned commit in the host's data"
}

untouched() { # checkout: at its commit, with nothing changed in it
    local recorded
    read -r recorded <"$1/.gpuhost/commit" && [ "$(git -C "$1" rev-parse -q --verify HEAD)" = "$recorded" ] &&
        [ -z "$(git -C "$1" status --porcelain --untracked-files=all)" ]
}

checkout() { # name, url, commit, destination, mount points ("dir/" or "file") to make in it
    local name=$1 url=$2 commit=$3 dest=$4 new=$TMP/checkout got stamp point
    shift 4
    must_be_ours "$dest"
    stamp=$(digest "$(declare -f checkout)" "$url" "$commit" "$@")
    if [ "$(cat "$dest/.gpuhost/stamp" 2>/dev/null)" = "$stamp" ] && untouched "$dest"; then
        stage "$name" "already at $commit"
        return
    fi
    stage "$name" "fetching $commit from $url"
    rm -rf "$new"
    git init -q "$new"
    cd "$new"
    git remote add origin "$url"
    fetch_commit "$url" "$commit"
    got=$(git rev-parse -q --verify "$commit^{commit}") # of a tag's own hash the commit that it names
    [ "$got" = "$commit" ] ||
        die "$(redact <<<"$url") answered commit $got for $commit" "check the pinned commit in the host's data"
    # Not ComfyUI's, ours: git must not call the tree changed because of them.
    printf '%s\n' /.gpuhost/ __pycache__/ "${@/#//}" >.git/info/exclude
    git_here checkout -q --detach "$commit" || explain_git "$url"
    mkdir -p .gpuhost
    printf '%s\n' "$commit" >.gpuhost/commit
    for point in "$@"; do
        if [[ $point == */ ]]; then mkdir -p "$point"; else : >"$point"; fi
    done
    untouched "$new" || die "the checkout of $commit is not clean" "see git's lines above; run again"
    printf '%s\n' "$stamp" >.gpuhost/stamp
    cd "$APP"
    if ours "$dest" && ! untouched "$dest"; then
        say "note: $dest was changed by hand; it is kept as $STATE/changed/"
        mkdir -p "$STATE/changed"
        mv "$dest" "$(mktemp -d "$STATE/changed/$(basename "$dest").XXXXXX")"
    fi
    put_in_place "$new" "$dest"
}

copy_guard() {
    local new=$TMP/guard files stamp
    files=$(cd "$GUARD_SOURCE" && find . -type f -print0 | sort -z | xargs -0 sha256sum)
    stamp=$(digest "$(declare -f copy_guard)" "$files")
    if [ "$(cat "$GUARD/.gpuhost/stamp" 2>/dev/null)" = "$stamp" ] &&
        diff -r -x .gpuhost "$GUARD_SOURCE" "$GUARD" >/dev/null; then
        stage guard "already there"
        return
    fi
    stage guard "copying the guard node"
    rm -rf "$new"
    cp -r "$GUARD_SOURCE" "$new"
    mkdir -p "$new/.gpuhost"
    printf '%s\n' "$stamp" >"$new/.gpuhost/stamp"
    put_in_place "$new" "$GUARD"
}

remove_unwanted_nodes() { # ours, from an earlier spec of this folder
    local dir
    for dir in "$APP"/nodes/auth/*/ "$APP"/nodes/extra/*/; do
        dir=${dir%/}
        case $dir in
        "$LOGIN" | "$GUARD") [ "$AUTH" = 1 ] && continue ;;
        *) [[ " ${node_names[*]-} " == *" $(basename "$dir") "* ]] && continue ;;
        esac
        [ -d "$dir" ] || continue
        say "removing $dir: no longer named"
        remove "$dir"
    done
}

# --- the venv ------------------------------------------------------------------------------------------------

pip_logged() { logged "$PY" -m pip "$@"; }

explain_pip() { # what, index
    if log_says "$NO_ROOM"; then
        die "the disk of $APP is full" "free space there and run again"
    elif log_says 'DO NOT MATCH THE HASHES'; then
        die "the package index has other bytes than were locked:$(log_line '^ +[^ ]+ (==[^ ]+ )?from ' | sed -E 's/^ +| from .*//g;s/^/ /')" \
            "somebody may have replaced them, nothing was installed; \`gpuhost lock --check\` says what moved"
    elif [ -n "$LOCK" ] && log_says 'In --require-hashes mode'; then
        die "the lock has a package without hashes:$(tail -n 1 "$LOG" | sed -E 's/^ */ /;s/ --hash.*//')" "\`gpuhost lock\` writes it anew"
    elif log_says "$NOT_REACHED"; then
        die "the package index $(redact <<<"$2") cannot be reached" \
            "check network, DNS, proxy and CA of the containers on this host, then run again"
    elif log_says 'ResolutionImpossible|conflicting dependencies'; then
        die "the versions asked for contradict each other:$(grep -E 'requested|depends on' "$LOG" | tail -n 2 | tr '\n' ';')" \
            "pin other versions in the host's data"
    elif log_says 'No matching distribution|Could not find a version'; then
        die "no ${LOCK:+locked }wheel for this Python in $(redact <<<"$2"): $(grep 'No matching' "$LOG" | tail -n 1 | sed 's/^ERROR: //')" \
            "check the version in the host's data, and the image's Python ($(python3 -V))"
    elif log_says 'No such file or directory: .*requirements|Invalid requirement'; then
        die "the requirements of $1 cannot be read" "pip's lines above name the file"
    fi
    die "pip could not install $1: $(grep -i '^error' "$LOG" | tail -n 1)" "pip's lines above name the cause"
}

# torch and its companions import, in the pinned versions.
prove_torch() {
    "$PY" - "$@" <<'PY'
import importlib
import sys
from importlib.metadata import version

for pin in sys.argv[1:]:
    name, _, wanted = pin.partition("==")
    found = version(name)
    if found != wanted and found.partition("+")[0] != wanted:
        sys.exit(f"{name} is {found}, not {wanted}")
    importlib.import_module(name)
import torch

print("torch", torch.__version__, "for CUDA", torch.version.cuda, "imports")
PY
}

# Everything that a requirements file names is there and imports.
prove_requirements() {
    "$PY" - "$@" <<'PY'
import importlib
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from pip._vendor.packaging.requirements import InvalidRequirement, Requirement
from pip._vendor.packaging.utils import canonicalize_name

modules: dict[str, list[str]] = {}
for module, dists in packages_distributions().items():
    for dist in set(dists):
        modules.setdefault(canonicalize_name(dist), []).append(module)
for line in (line for file in sys.argv[1:] for line in Path(file).read_text().splitlines()):
    try:
        requirement = Requirement(line.partition("#")[0].strip())
    except InvalidRequirement:
        continue  # an option, a URL or an empty line; pip has read it, `pip check` answers for it
    if requirement.marker and not requirement.marker.evaluate():
        continue
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        sys.exit(f"{requirement.name} is asked for and not installed")
    if not requirement.specifier.contains(found, prereleases=True):
        sys.exit(f"{requirement} is asked for, and {found} is installed")
    for module in modules.get(canonicalize_name(requirement.name), []):
        if module.isidentifier() and not module.startswith("_") and module not in ("test", "tests", "docs"):
            try:
                importlib.import_module(module)
            except Exception as error:
                sys.exit(f"{requirement.name} is installed but does not import: {type(error).__name__}: {error}")
PY
}

venv_stamp() { cat "$VENV/.gpuhost/$1" 2>/dev/null || true; }

stamp_venv() { # stage, stamp
    sync -f "$STATE" # the packages reach the disk before the stamp that vouches for them
    printf '%s\n' "$2" >"$VENV/.gpuhost/.new"
    mv "$VENV/.gpuhost/.new" "$VENV/.gpuhost/$1"
    rm -f "$VENV/.gpuhost/half-made"
}

make_venv() { # stamp
    stage venv "making it with $(python3 -V)"
    remove "$VENV"
    rm -rf "$TMP/venv"
    mkdir -p "$TMP/venv/.gpuhost"
    : >"$TMP/venv/.gpuhost/half-made"
    mv "$TMP/venv" "$VENV"
    logged python3 -m venv "$VENV" || die "the image's Python cannot make a venv" "it needs the venv and ensurepip modules"
    "$PY" -m pip --version >/dev/null || die "the new venv has no working pip" "the image's Python needs ensurepip"
    stamp_venv venv "$1"
}

install() { # stage, stamp, index, pip's arguments
    local name=$1 stamp=$2 index=$3
    shift 3
    : >"$VENV/.gpuhost/half-made"
    sync "$VENV/.gpuhost/half-made"
    if ! pip_logged install --progress-bar off "$@"; then
        # Everything is resolved and downloaded before the first byte is written into the venv.
        log_says '^Installing collected packages' || rm -f "$VENV/.gpuhost/half-made"
        explain_pip "$name" "$index"
    fi
}

make_torch() { # stamp, pins
    local stamp=$1
    shift
    if [ "$(venv_stamp torch)" = "$stamp" ]; then
        stage torch "already installed"
        return
    fi
    stage torch "installing $TORCH_PACKAGES from $TORCH_INDEX_URL"
    install torch "$stamp" "$TORCH_INDEX_URL" --index-url "$TORCH_INDEX_URL" "$@"
    logged prove_torch "$@" || die "torch is installed but does not work: $(tail -n 1 "$LOG")" \
        "check that TORCH_PACKAGES belong together and fit the image's Python"
    stamp_venv torch "$stamp"
}

install_locked() { # stamp
    stage packages "installing the $(wc -l <"$LOCK") packages of the lock"
    # Which index a file comes from does not matter: its sha256 does.
    install packages "$1" "${PIP_INDEX_URL:-PyPI} or $TORCH_INDEX_URL" --extra-index-url "$TORCH_INDEX_URL" \
        --require-hashes --only-binary=:all: --no-deps -r "$LOCK"
}

make_packages() {
    local venv torch packages file files=() arguments=() pins
    read -ra pins <<<"$TORCH_PACKAGES"
    for file in "$TREE" "$APP"/nodes/auth/*/ "$APP"/nodes/extra/*/; do
        [ -f "${file%/}/requirements.txt" ] && files+=("${file%/}/requirements.txt")
    done
    printf '%s\n' "${EXTRA_REQUIREMENTS-}" >"$STATE/extra-requirements.txt"
    files+=("$STATE/extra-requirements.txt")
    for file in "${files[@]}"; do arguments+=(-r "$file"); done

    venv=$(digest "$(declare -f make_venv)" "$(python3 -c 'import sys; print(sys.version, sys.executable)')")
    torch=$(digest "$venv" "$(declare -f install prove_torch)" "$TORCH_INDEX_URL" "$TORCH_PACKAGES")
    packages=$(digest "$torch" "$(declare -f install install_locked prove_requirements)" \
        "$(cd "$APP" && sha256sum "${files[@]}" ${LOCK:+"$LOCK"})")

    if [ -e "$VENV/.gpuhost/half-made" ] || [ "$(venv_stamp venv)" != "$venv" ] ||
        { [ -n "$(venv_stamp torch)" ] && [ "$(venv_stamp torch)" != "$torch" ]; } ||
        { [ -n "$(venv_stamp packages)" ] && [ "$(venv_stamp packages)" != "$packages" ]; } ||
        { [ -n "$(venv_stamp torch)$(venv_stamp packages)" ] && ! prove_torch "${pins[@]}" >/dev/null; }; then
        remove "$VENV" # before the disk is measured: it gives its room back
    fi
    [ "$(venv_stamp packages)" = "$packages" ] || check_disk
    if [ "$(venv_stamp venv)" = "$venv" ]; then stage venv "already made"; else make_venv "$venv"; fi

    [ -n "$LOCK" ] || make_torch "$torch" "${pins[@]}" # in a lock torch is one of the packages
    if [ "$(venv_stamp packages)" = "$packages" ]; then
        stage packages "already installed"
    else
        if [ -n "$LOCK" ]; then
            install_locked "$packages"
        else
            stage packages "installing what ${#files[@]} requirements files name"
            # What the nodes ask for must not replace the torch that was chosen for this GPU and driver.
            printf '%s\n' "${pins[@]}" >"$VENV/.gpuhost/constraints.txt"
            install packages "$packages" "${PIP_INDEX_URL:-PyPI}" -c "$VENV/.gpuhost/constraints.txt" "${arguments[@]}"
        fi
        logged prove_requirements "${files[@]}" ||
            die "a required package does not work: $(tail -n 1 "$LOG")" \
                "it may need a system library: see the image's Dockerfile${LOCK:+; or be missing in the lock: \`gpuhost lock\`}"
        logged prove_torch "${pins[@]}" || die "another package has broken torch: $(tail -n 1 "$LOG")" "pin what asks for it"
        stamp_venv packages "$packages"
    fi
    logged "$PY" -m pip check || die "the installed packages do not fit together: $(head -n 1 "$LOG")" "pin another version"
}

check_disk() {
    local need=${MIN_FREE_MIB:-12288} have spent
    mkdir -p "$STATE/cache"
    spent=$({ du -smc "$STATE/cache" "$VENV" 2>/dev/null || true; } | tail -n 1 | cut -f1)
    have=$(df -Pm "$APP" | awk 'NR == 2 { print $4 }')
    [ $((have + spent)) -ge "$need" ] ||
        die "the disk of $APP has $have MiB free, the install needs $((need - spent)) MiB" \
            "free space there, or give ComfyUI's folder another disk"
}

# --- the proof -----------------------------------------------------------------------------------------------

# The real start, up to the point where the port would open (--quick-test-for-ci), without a GPU. The login node
# is loaded from a copy: it writes a key next to itself, and a key must never be shared by services.
prove_start() {
    rm -rf "$TMP/proof"
    mkdir -p "$TMP/proof"/{base/custom_nodes,nodes}
    local node
    for node in "$APP"/nodes/auth/*/ "$APP"/nodes/extra/*/; do
        [ -d "$node" ] || continue
        cp -r "${node%/}" "$TMP/proof/nodes/"
        rm -f "$TMP/proof/nodes/$(basename "$node")/.secret-key.txt"
    done
    printf 'proof:\n  custom_nodes: %s\n' "$TMP/proof/nodes" >"$TMP/proof/paths.yaml"
    "$PY" - "$TREE" "$TMP/proof" "$AUTH" <<'PY'
import asyncio
import os
import runpy
import sys
from pathlib import Path

tree, proof, auth = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "1"
base = proof / "base"
sys.path[0] = str(tree)
os.chdir(tree)
sys.argv = [
    str(tree / "main.py"), "--cpu", "--quick-test-for-ci", "--base-directory", str(base), "--database-url",
    f"sqlite:///{base}/user/comfyui.db", "--extra-model-paths-config", str(proof / "paths.yaml"),
]  # fmt: skip
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    if end.code:
        sys.exit(f"ComfyUI ended with {end.code}")
import nodes
import server

loaded = {Path(path).name for path in nodes.LOADED_MODULE_DIRS.values()}
missing = {node.name for node in (proof / "nodes").iterdir()} - loaded
if missing:
    sys.exit(f"ComfyUI could not import {', '.join(sorted(missing))}")
if auth:
    guard = next(m for name, m in sys.modules.items() if name.endswith("/gpuhost-guard"))
    status = asyncio.run(guard.status_for_stranger(server.PromptServer.instance.app, "/system_stats"))
    if status != 401:
        sys.exit(f"ComfyUI-Login is loaded, but a request without a token would be answered {status}, not 401")
PY
}

write_final() {
    local torch extra=() i
    torch=$("$PY" -c 'import torch; print(torch.__version__, torch.version.cuda)')
    for i in "${!node_names[@]}"; do
        extra+=("${node_names[$i]}" "${node_refs[$i]}" "$(cat "$APP/nodes/extra/${node_names[$i]}/.gpuhost/commit")")
    done
    python3 - "$FINAL" "$INSTALL_SPEC" "$torch" "$COMFYUI_REF" "$(cat "$TREE/.gpuhost/commit")" \
        "$([ "$AUTH" = 1 ] && cat "$LOGIN/.gpuhost/commit")" "${LOGIN_REF-}" "${extra[@]}" <<'PY'
import json
import os
import platform
import sys
from datetime import UTC, datetime

final, spec, torch, ref, commit, login_commit, login_ref, *extra = sys.argv[1:]
version, cuda = torch.split()
stamp = {
    "comfyui": {"ref": ref, "commit": commit},
    "login": {"ref": login_ref, "commit": login_commit} if login_commit else None,
    "extra_nodes": {n: {"ref": r, "commit": c} for n, r, c in zip(*[iter(extra)] * 3, strict=True)},
    "torch": {"version": version, "cuda": None if cuda == "None" else cuda},
    "python": platform.python_version(),
    "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
}
with open(final + ".new", "w") as file:
    file.write(f'{{"spec": {spec}, {json.dumps(stamp)[1:]}\n')  # the spec as it came: it is compared as text
    file.flush()
    os.fsync(file.fileno())
os.replace(final + ".new", final)
folder = os.open(os.path.dirname(final), os.O_RDONLY)
os.fsync(folder)
PY
}

# --- the story -----------------------------------------------------------------------------------------------

need INSTALL_SPEC '^\{.*\}$' "the spec, as JSON on one line"
if installed; then
    say "already installed"
    exit 0
fi
check_input
mkdir -p "$STATE" 2>/dev/null || die "$APP is not writable for uid $(id -u)" "give the folder on the host to uid $(id -u)"

# The lock is the open file: it goes when the last process of this install goes, however it ended.
exec 9>"$STATE/lock"
if ! flock -n 9; then
    say "another install works in this folder: waiting for it"
    flock 9
    if installed; then
        say "already installed"
        exit 0
    fi
fi

rm -f "$FINAL" # from here on the folder is not what an earlier stamp says
rm -rf "$TMP"
mkdir -p "$TMP/home" "$STATE/cache" "$APP/nodes/extra"
export HOME=$TMP/home TMPDIR=$TMP PIP_CACHE_DIR=${PIP_CACHE_DIR:-$STATE/cache}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_REQUIRE_VIRTUALENV=1 PYTHONNOUSERSITE=1
export PYTHONDONTWRITEBYTECODE=1 GIT_TERMINAL_PROMPT=0 LC_ALL=C.UTF-8
unset PYTHONPATH PYTHONHOME

must_be_ours "$VENV"
stage_count=$((5 + ${#node_names[@]} + 2 * AUTH))
[ -z "$LOCK" ] || stage_count=$((stage_count - 1))
checkout comfyui "$COMFYUI_URL" "$COMFYUI_REF" "$TREE" login/
remove_unwanted_nodes
if [ "$AUTH" = 1 ]; then
    checkout login "$LOGIN_URL" "$LOGIN_REF" "$LOGIN" .secret-key.txt
    copy_guard
fi
for i in "${!node_names[@]}"; do
    checkout "node ${node_names[$i]}" "${node_urls[$i]}" "${node_refs[$i]}" "$APP/nodes/extra/${node_names[$i]}"
done
make_packages
stage proof "starting ComfyUI up to its port, on the CPU"
logged prove_start || die "ComfyUI is installed but does not start: $(tail -n 1 "$LOG")" "the lines above are ComfyUI's own"
untouched "$TREE" || die "the start changed ComfyUI's own files" "see git status in $TREE"

"$PY" -m pip freeze >"$STATE/packages.txt"
rm -rf "$TMP" "$STATE/cache"
sync -f "$STATE"
write_final
say "installed"
