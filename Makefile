# Every target sets up what it needs on a fresh machine and needs nothing before it.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
ARGS   ?=
COMMAND = echo "The command is $(VENV)/bin/gpuhost; after \`. $(VENV)/bin/activate\` it is \`gpuhost\`."
# A process more than there are cores, for a rehearsal waits a third of its time; what shares a host stays in one of them
# (tests/conftest.py).
CORES  := --numprocesses=$$(( $$(nproc) + 1 )) --maxprocesses=4 --dist=loadscope --no-loadscope-reorder
AS_ROOT := @[ "$$(id -u)" = 0 ] || { echo "error: rehearsals need root (they boot hosts in containers)" >&2; echo "hint: sudo make test, or make unit" >&2; exit 1; }

.PHONY: help venv check unit sd35-check comfyui-check mutants test soak rehearse plan deploy verify docs lock clean

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16
	@$(COMMAND)

venv: $(READY)

# Debian and Ubuntu ship python3 without ensurepip: as root we add python3-venv, else we say so.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "error: gpuhost needs Python 3.11 or later, \`$(PYTHON)\` is: $$($(PYTHON) -V 2>&1)" >&2; echo "hint: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || if [ "$$(id -u)" = 0 ]; then apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=600 ca-certificates $(notdir $(PYTHON))-venv; else echo "error: Python's venv module is not complete" >&2; echo "hint: sudo apt-get install $(notdir $(PYTHON))-venv" >&2; exit 1; fi
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
	@$(COMMAND) >&2

check: $(READY) ## lint, format, types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

unit: $(READY) ## tests without a host; some minutes
	$(VENV)/bin/pytest $(CORES) tests/unit $(ARGS)

# In a venv of its own: torch is large. Where pip finds no small build of it, name an index that has one:
# make sd35-check TORCH_INDEX=https://download.pytorch.org/whl/cpu
SD35  := build/sd35
sd35-check: $(SD35)/.ready ## files/sd35 and the models' cache with the real diffusers and tiny models, on the CPU
	OMP_NUM_THREADS=1 $(SD35)/bin/python -m pytest -q tests/diffusers $(ARGS)

$(SD35)/.ready: files/sd35/requirements.lock
	$(PYTHON) -m venv $(SD35)
	sed -n 's/^\([a-z0-9_.-]*==[^ ;]*\).*/\1/p' $< | grep -v -e ^nvidia -e ^cuda -e ^triton -e ^numpy -e ^networkx > $(SD35)/constraints.txt
	$(SD35)/bin/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $$(grep ^torch== $(SD35)/constraints.txt)
	$(SD35)/bin/pip install --quiet --disable-pip-version-check -c $(SD35)/constraints.txt \
		-r files/sd35/requirements.in httpx pytest pytest-timeout pytest-xdist
	@touch $@

# The same for ComfyUI and ComfyUI-Login at the commits of the catalogue. PyPI's torch is some gigabytes, an index with a
# build for the CPU saves them: make comfyui-check TORCH_INDEX=https://download.pytorch.org/whl/cpu
COMFYUI := build/comfyui
comfyui-check: $(COMFYUI)/.ready ## the guard before the real ComfyUI and its login, on the CPU
	OMP_NUM_THREADS=1 $(COMFYUI)/bin/python -m pytest -q tests/comfyui $(ARGS)

$(COMFYUI)/.ready: group_data/all.py
	rm -rf $(COMFYUI)
	$(PYTHON) -m venv $(COMFYUI)
	$(PYTHON) -c 'import runpy; e = runpy.run_path("group_data/all.py")["installs"]["comfyui"]["environment"]; \
		print("ComfyUI", e["COMFYUI_URL"], e["COMFYUI_REF"], "\nComfyUI-Login", e["LOGIN_URL"], e["LOGIN_REF"])' | \
	while read -r name url commit; do \
		git init -q $(COMFYUI)/sources/$$name && git -C $(COMFYUI)/sources/$$name fetch -q --depth 1 $$url $$commit && \
		git -C $(COMFYUI)/sources/$$name checkout -q --detach $$commit || exit 1; \
	done
	$(PYTHON) -c 'import runpy; print(runpy.run_path("group_data/all.py")["installs"]["comfyui"]["environment"]["EXTRA_REQUIREMENTS"])' > $(COMFYUI)/extra.txt
	$(COMFYUI)/bin/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch torchvision torchaudio
	$(COMFYUI)/bin/pip install --quiet --disable-pip-version-check -r $(COMFYUI)/sources/ComfyUI/requirements.txt \
		-r $(COMFYUI)/sources/ComfyUI-Login/requirements.txt -r $(COMFYUI)/extra.txt pytest pytest-timeout pytest-xdist
	@touch $@

mutants: $(READY) ## how many small changes of the code the unit tests notice; ARGS="--seed 2 gpuhost/plan/*.py"
	$(PY) -m tests.mutation $(ARGS)

test: $(READY) ## unit tests and the core rehearsals (root)
	$(AS_ROOT)
	$(VENV)/bin/pytest $(CORES) -m "not soak" $(ARGS)

# git answers in a checkout that another user owns (a CI's mount) only when told so.
unit mutants test soak: export GIT_CONFIG_COUNT := 1
unit mutants test soak: export GIT_CONFIG_KEY_0 := safe.directory
unit mutants test soak: export GIT_CONFIG_VALUE_0 := $(CURDIR)

soak: $(READY) ## the long lists of faults and moments, at full count (root)
	$(AS_ROOT)
	$(VENV)/bin/pytest $(CORES) -m "soak or sampled" $(ARGS)

rehearse: $(READY) ## the whole path on a fresh host made on this machine (root); ARGS="--suite bookworm --keep"
	$(VENV)/bin/gpuhost rehearse $(ARGS)

plan: $(READY) ## what a deploy would change, and why
	@$(VENV)/bin/gpuhost plan $(ARGS) || [ $$? = 2 ]

deploy: $(READY) ## plan, ask, apply, prove; ARGS=--yes does not ask
	@$(VENV)/bin/gpuhost apply $(ARGS)

verify: $(READY) ## ask every service through its published port
	@$(VENV)/bin/gpuhost verify $(ARGS)

docs: $(READY) ## write anew what is generated in docs/: reference, services, pictures
	@for name in $$($(PY) -m gpuhost.plan.schema); do $(PY) -m gpuhost.plan.schema $$name > docs/reference/$$name.schema.json || exit 1; done
	@$(VENV)/bin/gpuhost config --table > docs/services.table || { rm -f docs/services.table; exit 1; }
	@sed '/^|/,$$d' docs/services.md | cat - docs/services.table > docs/services.new
	@mv docs/services.new docs/services.md; rm -f docs/services.table
	@$(PY) -m gpuhost.catalog.reference > docs/reference/data.new && mv docs/reference/data.new docs/reference/data.md
	@$(PY) -m gpuhost.cli.reference > docs/reference/commands.new && mv docs/reference/commands.new docs/reference/commands.md
	@$(PY) -m tests.rehearsal.pictures --draw

lock: ## write requirements.lock anew, and the one of files/sd35
	$(PYTHON) -m venv build/lock && build/lock/bin/pip install -q uv
	build/lock/bin/uv pip compile -q --universal --python-version 3.11 --extra test --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-header -o requirements.lock pyproject.toml
	build/lock/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes -c requirements.lock \
		--no-emit-index-url --no-emit-find-links --no-header -o files/sd35/requirements.lock files/sd35/requirements.in

clean: ## what the targets above made here
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
