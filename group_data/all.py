"""What every host gets. A site changes single fields of it in a group_data folder of its own (docs/site.md).

The types are in gpuhost/catalog/types.py (every field: docs/reference/data.md), what must fit together in checks.py
beside it; every mistake is reported before any host is contacted.
"""

# --- Which services this host runs -----------------------------------------------------------------------------------
# What this host's GPUs cannot carry is skipped, with a line that says what it lacks. Of these the orchestrator and
# comfyui-qwen always run; the others are made and not started (`"start": "on-demand"`, docs/services.md): their models
# and images are there. FLUX.1-dev and Stable Diffusion 3.5 are gated: they want HF_TOKEN, and their licences accepted.
enabled_services = [
    "orchestrator",
    "stable-diffusion-35",
    "comfyui-qwen",
    "flux-1-dev",
    "comfyui-workflows",
    "qwen3-micro",
    "qwen3-mini",
    "qwen3-medium",
]

# None, or "test": networks in 172.25.0.0/16, each service's limits for tests (`test` in its entry), short logs; nothing
# starts by itself, neither now nor at boot: start one, look at it, stop it. For a host that is no other one already.
profile = None
# False: the ComfyUI services have no login, to find out whether a fault is the login's. They stay on 127.0.0.1.
comfyui_login = True
# Services that the network reaches, not this host alone: their ports are bound to every address. Each needs `auth`. The
# token then travels as it is: put TLS before it (docs/security.md).
expose = []

# --- Where things live on the host -----------------------------------------------------------------------------------
data_root = "/srv/genai"  # models, caches, outputs, ComfyUI installs, stacks
tools_root = "/opt/gpuhost"  # our programs, their venv, image build contexts
state_root = "/var/lib/gpuhost"  # stamps, manifests, backups
data_mount = None  # "/srv": refuse to run while nothing is mounted there (a data disk that did not come up)
account = {"name": "genai", "uid": 10001, "gid": 10001}  # owns models and installs; no service runs as it
disk_min_free_gib = 5.0  # with less free space nothing is started
memory_min_gib = 2.0
base_packages = ["ca-certificates", "curl", "gpg", "nftables", "python3", "python3-venv"]

# --- Docker Engine ---------------------------------------------------------------------------------------------------
# "docker": Docker's own apt repository. "distro": the packages of Debian (13 or later) or Ubuntu.
engine_source = "docker"
engine_packages = {
    "docker": ["docker-ce", "docker-ce-cli", "containerd.io", "docker-buildx-plugin", "docker-compose-plugin"],
    "debian": ["docker.io", "docker-cli", "docker-buildx", "docker-compose"],
    "ubuntu": ["docker.io", "docker-buildx", "docker-compose-v2"],
}
engine_version = None  # "28.3.3": Docker's own packages in this version, held; None: what is there, or the newest
# Keys of /etc/docker/daemon.json that are ours; every other key in the file stays as it is. One that is dropped here is
# taken out there where gpuhost wrote it and nobody has changed it since; `runtimes` stay.
# A site adds its own, such as "registry-mirrors": ["https://mirror.example"], or "live-restore": True: containers then
# outlive every end of dockerd, and a shutdown of the host waits for them. A restart that we cause stops none anyway.
engine_config = {
    "features": {"cdi": True},
    "log-driver": "json-file",
    "log-opts": {"max-size": "10m", "max-file": "3"},
}
apt_repositories = {
    "docker": {
        "url": "https://download.docker.com/linux/{os}",
        "suites": "{suite}",
        "components": "stable",
        "key_url": "https://download.docker.com/linux/{os}/gpg",
    },
    "nvidia": {
        "url": "https://nvidia.github.io/libnvidia-container/stable/deb/{arch}",
        "suites": "/",
        "key_url": "https://nvidia.github.io/libnvidia-container/gpgkey",
    },
}
# Keys with these fingerprints are shipped (files/apt-keys); another one is fetched from its `key_url`, and refused when
# it has another fingerprint.
apt_key_fingerprints = {
    "docker": "9DC858229FC7DD38854AE2D88D81803C0EBFCD88",
    "nvidia": "C95B321B61E88C1809C4F759DDCAE044F796ECB0",
}

# --- NVIDIA: the driver, and how containers get GPUs -----------------------------------------------------------------
# None: the driver is yours, gpuhost reports it. "580": installed from the distribution where there is none and the host
# has a card; never on WSL2, never over one that works. Debian 12 has 535, Debian 13 has 550 (component non-free).
driver = None
driver_packages = {
    "debian": ["linux-headers-{arch}", "nvidia-kernel-dkms", "nvidia-driver"],
    # Blackwell cards need the open modules: "nvidia-headless-{branch}-server-open".
    "ubuntu": ["linux-headers-generic", "nvidia-headless-{branch}-server", "nvidia-utils-{branch}-server"],
}
allow_reboot = False  # True: the host is rebooted when a driver was installed that cannot be loaded otherwise
nvidia_toolkit_version = "1.20.0-1"  # all four packages, held; 1.18.0-1 at least
# "cdi": by CDI (Docker 26.1 or later). "runtime": by the nvidia runtime. "auto": CDI where the Docker that runs has it.
gpu_access = "auto"
# Run when driver, GPUs, toolkit or engine are others than at the last proof: does a container get the GPUs that it asks
# for, none when it asks for none, and is what it computes on them right?
gpu_check = {"image": "gpu-check", "source": "gpu-check/compute.py", "timeout_s": 120}

# --- Networks: containers of one find each other by name, and reach nothing else --------------------------------------
# Published ports work all the same. `"egress": True` gives a network's containers a way out, not to the host.
networks = {
    "orchestrator": {"subnet": "172.20.1.0/24"},
    "comfyui-qwen": {"subnet": "172.20.2.0/24"},
    "qwen3-micro": {"subnet": "172.20.11.0/24"},
    "qwen3-mini": {"subnet": "172.20.12.0/24"},
    "qwen3-medium": {"subnet": "172.20.13.0/24"},
    "stable-diffusion-35": {"subnet": "172.20.21.0/24"},
    "flux-1-dev": {"subnet": "172.20.22.0/24"},
    "comfyui-workflows": {"subnet": "172.20.23.0/24"},
}

# --- Secrets: where they come from (values never stand here) ---------------------------------------------------------
# Sources, later ones win: `.env`, `<secrets_dir>/<host>.sops.env`, `<secrets_dir>/<host>.env`, the environment.
# What can be generated is, for every host, at the first apply: a service that is enabled later finds its own there.
secrets_dir = "secrets"
secrets = {
    "HF_TOKEN": {
        "aliases": ["HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN"],
        "about": "Hugging Face read token; sent for models that are `gated`, reaches the model fetch only",
        "renew": "make one at https://huggingface.co/settings/tokens, write it where the old one stands, revoke that",
    },
    "CIVITAI_TOKEN": {
        "aliases": ["CIVITAI_API_TOKEN", "CIVITAI_API_KEY"],
        "about": "Civitai API key; rendered only for a service that names it",
        "renew": "make one at https://civitai.com/user/account, write it where the old one stands, "
        "`gpuhost secrets sync`, then delete the old one there",
    },
    "COMFYUI_USER": {"generate": "username", "about": "user name of ComfyUI's login page"},
    "COMFYUI_PASSWORD": {"generate": "password", "about": "password of ComfyUI's login page"},
    "COMFYUI_PASSWORD_HASH": {
        "generate": "bcrypt",
        "derive_from": "COMFYUI_PASSWORD",
        "about": "bcrypt hash of the password; ComfyUI-Login takes it as the API's bearer token",
    },
    "ORCHESTRATOR_TOKEN": {"generate": "token", "min_chars": 32, "about": "bearer token of the orchestrator's API"},
    "VLLM_API_KEY_MICRO": {"generate": "token", "about": "API key of the smallest vLLM server"},
    "VLLM_API_KEY_MINI": {"generate": "token", "about": "API key of the middle vLLM server"},
    "VLLM_API_KEY_MEDIUM": {"generate": "token", "about": "API key of the largest vLLM server"},
    "SD35_API_KEY": {"generate": "token", "min_chars": 32, "about": "API key of Stable Diffusion 3.5"},
    "LABEL_HMAC_KEY": {"generate": "token", "about": "key of the fingerprints that tell a stale secret"},
}

# --- Images: `gpuhost lock` writes down which bytes a tag is, and a deploy takes those --------------------------------
# What is pulled, and what ours are built from, comes from these repositories (`gpuhost check`).
allowed_images = ["docker.io/library/python", "docker.io/vllm/vllm-openai"]
_python = "docker.io/library/python:3.12.11-slim-bookworm"
# The command line of every vLLM server; `{...}`: an option of the service, or what gpuhost/services/arguments.py
# supplies; `?`: left out where the service has no such option.
_vllm_arguments = [
    "{repo}",  # first, where `vllm serve` wants the model
    "--revision={revision}",
    "--served-model-name={service}",
    "--host=0.0.0.0",
    "--port={container_port}",
    "--middleware=gpuhost_guard.Guard",  # without it `/invocations` completes texts for everybody
    "--tensor-parallel-size={gpu_count}",
    "--gpu-memory-utilization={gpu_memory_part}",
    "--max-model-len={context}",
    "--max-num-batched-tokens={context}",
    "--dtype=float16",
    "--kv-cache-dtype=fp8",
    "--enable-chunked-prefill",
    "--enable-prefix-caching",
    "--enable-auto-tool-choice",
    "--tool-call-parser=hermes",
    "--reasoning-parser=qwen3",
]
# Arguments of our builds: `PACKAGE_INDEX_URL` (orchestrator, sd35), another index than pip's own; `DEBIAN_MIRROR_URL`
# (comfyui), another mirror than its base's. docs/howto/offline.md has examples.
images = {
    "orchestrator": {"build": "orchestrator", "args": {"BASE_IMAGE": _python}},
    "comfyui": {"build": "comfyui", "args": {"BASE_IMAGE": _python}},
    # Another release: `images = {"vllm": {"pull": "docker.io/vllm/vllm-openai:v0.9.2"}}`. Each one's arguments were
    # checked against its own command line (tests/unit/services/test_arguments.py).
    "vllm": {
        "pull": "docker.io/vllm/vllm-openai:v0.32.0",
        "arguments": {
            "v0.9.2": [*_vllm_arguments, "--rope-scaling={rope?}"],
            "v0.32.0": [
                *_vllm_arguments,
                '--hf-overrides={"max_position_embeddings":{context},"rope_parameters":{rope?}}',
            ],
        },
        "refused": {
            "--enable-reasoning": "deprecated by v0.9.0, unknown to v0.10.0: `--reasoning-parser` alone says it",
            "--api-key": "every user of the host reads the arguments of its processes: the key is in the environment",
            "--tool-server": "its `demo` runs code that the model wrote",
            "--trust-remote-code": "it runs code that lies beside the weights",
            "--trust-request-chat-template": "whoever asks would write templates that the server runs",
            "VLLM_PORT": "vLLM speaks to itself on it; the port of the API is `container_port`",
            "VLLM_API_KEY": "it is a secret: name it in `auth.token` and `secrets`",
            "VLLM_SERVER_DEV_MODE": "it opens routes that stop and change the server",
            "CUDA_VISIBLE_DEVICES": "an index on top of the GPUs that a container is given hides them",
            "NVIDIA_VISIBLE_DEVICES": "GPUs are given by `gpu`, not by their index",
        },
        "families": {
            "Qwen/Qwen3-*": {"--tool-call-parser": "hermes", "--reasoning-parser": "qwen3"},
        },
    },
    # PyPI's torch for Linux is the build for CUDA 13.0 (NVIDIA's driver 580 or later). The image's requirements.lock
    # holds the hashes of these very files: another CUDA is another index and another lock.
    "sd35": {"build": "sd35", "args": {"BASE_IMAGE": _python}},
    "gpu-check": {"pull": _python},
}

# --- Models: one shared Hugging Face cache ---------------------------------------------------------------------------
# A repository at a revision, or the files of it that `allow` and `ignore` choose (patterns, as huggingface_hub's).
# `links`: where the services see a file, as <data_root>/models/<folder>/<name>; without, it is in the cache alone.
# `sha256`: what somebody has seen a file have; another one is refused. What `main` is, `gpuhost lock` pins.
# "gated": True for a repository whose licence wants an account: HF_TOKEN is sent for it, and for no other.
# Only the models that a service in `enabled_services` names are fetched.
hub_endpoint = "https://huggingface.co"
# With several hosts in a run: what one of them has, or is the first to fetch, the others take from it, through the
# machine on which gpuhost runs, by SSH. False where the way to that machine is slower than the hosts' way to the hub.
share_models = True
models = {
    # FLUX.1-dev, for flux-1-dev: the transformer and its VAE here, both text encoders below.
    "flux-1-dev": {
        "repo": "black-forest-labs/FLUX.1-dev",
        "gated": True,
        "allow": ["flux1-dev.safetensors", "ae.safetensors"],
        "links": {
            "flux1-dev.safetensors": "diffusion_models/flux1-dev.safetensors",
            "ae.safetensors": "vae/ae.safetensors",
        },
        "sha256": {
            "flux1-dev.safetensors": "4610115bb0c89560703c892c59ac2742fa821e60ef5871b33493ba544683abd7",
            "ae.safetensors": "afc8e28272cd15db3919bacdb6918ce9c1ed22e96cb12c4d5ed0fba823529e38",
        },
        "licence": "FLUX.1 [dev] Non-Commercial License; accept it at "
        "https://huggingface.co/black-forest-labs/FLUX.1-dev",
    },
    "flux-text-encoders": {
        "repo": "comfyanonymous/flux_text_encoders",
        "allow": ["clip_l.safetensors", "t5xxl_fp16.safetensors"],
        "links": {
            "clip_l.safetensors": "text_encoders/clip_l.safetensors",
            "t5xxl_fp16.safetensors": "text_encoders/t5xxl_fp16.safetensors",
        },
        "sha256": {
            "clip_l.safetensors": "660c6f5b1abae9dc498ac2d21e1347d2abdb0cf6c0c0c8576cd796491d9a6cdd",
            "t5xxl_fp16.safetensors": "6e480b09fae049a72d2a8c5fbccb8d3e92febeb233bbe9dfe7256958a9167635",
        },
        "licence": "see https://huggingface.co/comfyanonymous/flux_text_encoders",
    },
    # Stable Diffusion 3.5 large in diffusers' layout, for stable-diffusion-35: without the single-file weights, which
    # are the same again, and without the fp16 copies.
    "sd35-large": {
        "repo": "stabilityai/stable-diffusion-3.5-large",
        "gated": True,
        "allow": [
            "model_index.json",
            "scheduler/",
            "text_encoder/",
            "text_encoder_2/",
            "text_encoder_3/",
            "tokenizer/",
            "tokenizer_2/",
            "tokenizer_3/",
            "transformer/",
            "vae/",
        ],
        "ignore": ["*.fp16*"],
        "licence": "Stability AI Community License; accept it at "
        "https://huggingface.co/stabilityai/stable-diffusion-3.5-large",
    },
    # Qwen-Image-Edit, for comfyui-qwen: the transformer, its text encoder, its VAE.
    "qwen-image-edit": {
        "repo": "Comfy-Org/Qwen-Image-Edit_ComfyUI",
        "allow": ["split_files/diffusion_models/qwen_image_edit_2509_fp8_e4m3fn.safetensors"],
        "links": {
            "split_files/diffusion_models/qwen_image_edit_2509_fp8_e4m3fn.safetensors": "diffusion_models/"
            "qwen_image_edit_2509_fp8_e4m3fn.safetensors",
        },
        "licence": "Apache 2.0",
    },
    "qwen-image-encoder": {
        "repo": "Comfy-Org/Qwen-Image_ComfyUI",
        "allow": ["split_files/text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors"],
        "links": {
            "split_files/text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors": "text_encoders/"
            "qwen_2.5_vl_7b_fp8_scaled.safetensors",
        },
        "licence": "Apache 2.0",
    },
    "qwen-image-vae": {
        "repo": "Comfy-Org/Qwen-Image_ComfyUI",
        "allow": ["split_files/vae/qwen_image_vae.safetensors"],
        "links": {"split_files/vae/qwen_image_vae.safetensors": "vae/qwen_image_vae.safetensors"},
        "licence": "Apache 2.0",
    },
    # For the vLLM services, which read them from the cache.
    "qwen3-micro": {"repo": "Qwen/Qwen3-1.7B-FP8", "licence": "Apache 2.0"},
    "qwen3-mini": {"repo": "Qwen/Qwen3-8B-AWQ", "licence": "Apache 2.0"},
    "qwen3-medium": {"repo": "Qwen/Qwen3-32B-AWQ", "licence": "Apache 2.0"},
}

# --- Installs: what a script makes once, one folder a spec, mounted read-only into the services that name it ----------
installs = {
    "comfyui": {
        "version": "v0.3.64",
        "script": "install_comfyui.sh",  # its head documents the environment
        "image": "comfyui",
        "environment": {
            "COMFYUI_URL": "https://github.com/comfyanonymous/ComfyUI.git",
            "COMFYUI_REF": "637221995f7424a561bd825de3e61ea117dfe1e3",
            "TORCH_INDEX_URL": "https://download.pytorch.org/whl/cu128",
            "TORCH_PACKAGES": "torch==2.8.0 torchvision==0.23.0 torchaudio==2.8.0",
            # ComfyUI's own requirements are open ranges: with newer transformers this version does not start.
            "EXTRA_REQUIREMENTS": "transformers==4.57.1",
            "AUTH": "1",
            "LOGIN_URL": "https://github.com/liusida/ComfyUI-Login.git",
            "LOGIN_REF": "69109257f4629a11ebe26cd65667536c4f8dddcb",
        },
    },
}

# --- Services: one entry is one container, which runs as an account of its own ---------------------------------------
# What the vLLM servers have in common.
_vllm = {
    "image": "vllm",
    "template": "vllm.yml.j2",
    "container_port": 8000,
    "pids": 4096,
    "init": True,  # its workers are processes of their own
    # Its processes hand each other tensors through /dev/shm: one of their own serves that, the host's (`ipc: host`)
    # would let them read what every other process of the host shares.
    "shm": "8g",
    "tmp": "2g",
    "config_files": {"gpuhost_guard.py": "vllm_guard.py.j2"},
}
_vllm_health = {"path": "/health", "interval_s": 30, "timeout_s": 10, "retries": 5}
_vllm_auth = {
    "open_paths": ["/health"],
    "locked_paths": ["/v1/models"],
    # vLLM's own lock lets these in; the guard (templates/vllm_guard.py.j2) refuses them.
    "locked_requests": [
        {"method": "POST", "path": "/invocations"},
        {"method": "POST", "path": "/tokenize"},
        {"method": "OPTIONS", "path": "/v1/models"},
        {"method": "GET", "path": "/openapi.json"},
        {"method": "GET", "path": "//v1/models"},
    ],
}
# What the ComfyUI services have in common: one install, read-only; each has folders of its own for users, input, output
# and workflows, and a key of its own for the cookies of its login.
_comfyui = {
    "image": "comfyui",
    "template": "comfyui.yml.j2",
    "container_port": 8188,
    "shm": "16g",
    "tmp": "1g",
    "install": "comfyui",
    "folders": ["custom_nodes"],  # ComfyUI does not start without it
    # MiB of a request: without files (the guard node's limit), and of an upload (ComfyUI's, which the guard takes).
    "environment": {"GPUHOST_MAX_BODY_MIB": "32"},
    "arguments": ["--max-upload-size=100"],
    # The key of the login's cookies. An empty one would leave the door open; the login renews it every 30 days.
    # A new password ends the sessions of the old one.
    "seeds": {"session-key.txt": {"text": "{random_key},{now}", "renew_with": "COMFYUI_PASSWORD_HASH"}},
    "config_files": {"extra_model_paths.yaml": "extra_model_paths.yaml.j2"},
    # ComfyUI-Login takes the bcrypt hash itself as the API's bearer token.
    "auth": {
        "token": "COMFYUI_PASSWORD_HASH",
        "switch": "comfyui_login",
        "token_parameter": "token",
        "locked_paths": ["/system_stats"],
        # ComfyUI-Login alone lets these in, or fails; only the guard node (files/comfyui/guard) refuses them. Where
        # they got through, they would find no file, or one outside the user's folder, and change nothing.
        "locked_requests": [
            {"method": "POST", "path": "/userdata/..%2F..%2Fgpuhost-asks.js"},
            {"method": "POST", "path": "/userdata/..%2F..%2Fgpuhost-asks.css"},
            {"method": "POST", "path": "/userdata/gpuhost-asks/move/x.js"},
            {"method": "DELETE", "path": "/userdata/gpuhost-asks.js"},
            {"method": "GET", "path": "/api/userdata/gpuhost-asks.ico"},
            {"method": "OPTIONS", "path": "/system_stats"},
            {"method": "GET", "path": "/%6cogin"},
            {"method": "GET", "path": "/system_stats", "headers": {"Authorization": "Bearer"}},
            {"method": "GET", "path": "/system_stats", "headers": {"Cookie": "AIOHTTP_SESSION=gpuhost-asks"}},
        ],
        "open_paths": ["/login"],
    },
    "secret_files": {"PASSWORD": "{COMFYUI_PASSWORD_HASH}\n{COMFYUI_USER}\n"},
    "probes": [{"name": "says its version", "path": "/system_stats", "contains": "comfyui_version"}],
}
_comfyui_health = {"path": "/system_stats", "interval_s": 30, "timeout_s": 10}
# Contexts above the 32768 tokens that these models were trained with.
_yarn = {"rope_type": "yarn", "rope_theta": 1000000, "original_max_position_embeddings": 32768}


def _completes(name):
    """A real completion: `/health` says 200 while the first one crashes."""
    return {
        "name": "completes a text",
        "method": "POST",
        "path": "/v1/completions",
        "body": {"model": name, "prompt": "1 + 1 =", "max_tokens": 4, "ignore_eos": True, "temperature": 0},
        "json_has": {"object": "text_completion", "usage": {"completion_tokens": 4}},
    }


services = {
    "orchestrator": {
        "stack": "orchestrator",
        "image": "orchestrator",
        "template": "orchestrator.yml.j2",
        "account": {"name": "genai-orchestrator", "uid": 10002, "gid": 10002},
        "port": 8193,
        "container_port": 8193,
        "network": "orchestrator",
        "memory": "2g",
        "cpus": 2,
        "pids": 256,
        "controls_services": True,  # asks a broker about our containers; Docker's socket would be root on the host
        "secrets": ["ORCHESTRATOR_TOKEN"],
        "health": {
            "command": ["python", "-m", "orchestrator.healthcheck"],
            "interval_s": 15,
            "timeout_s": 5,
            "retries": 3,
            "start_budget_s": 30,
        },
        "auth": {"token": "ORCHESTRATOR_TOKEN", "locked_paths": ["/services"], "open_paths": ["/health"]},
        "probes": [{"name": "sees Docker", "path": "/health", "json_has": {"status": "ok"}}],
        "test": {"memory": "1g", "cpus": 1},
        "start_order": 10,
    },
    "comfyui-qwen": {
        "stack": "comfyui-qwen",
        "account": {"name": "genai-comfyui-qwen", "uid": 10003, "gid": 10003},
        "port": 8188,
        "network": "comfyui-qwen",
        "memory": "36g",  # what a small card has no room for waits here: 31908 MiB at their most (docs/comfyui.md)
        "memory_least": "21g",  # 20803 MiB while a large card is filled
        "cpus": 4,
        # Measured on an H200, random weights, at its peak; at rest 28446. With 20000 MiB it makes them, too.
        "gpu": {"count": 1, "vram_mib": 32798, "vram_least_mib": 20000},
        "shipped_files": {"comfyui-qwen.json": "workflows/comfyui-qwen.json"},
        "models": ["qwen-image-edit", "qwen-image-encoder", "qwen-image-vae"],
        "health": {**_comfyui_health, "retries": 5, "start_budget_s": 180},
        "test": {"memory": "34g", "cpus": 2, "shm": "4g"},
        "start_order": 50,
        **_comfyui,
    },
    "flux-1-dev": {
        "stack": "flux-1-dev",
        "account": {"name": "genai-flux-1-dev", "uid": 10022, "gid": 10022},
        "port": 8189,
        "network": "flux-1-dev",
        "memory": "40g",  # what a small card has no room for waits here: 33240 MiB at their most (docs/comfyui.md)
        "memory_least": "24g",  # 23838 MiB while a large card is filled
        "cpus": 4,
        # Measured on an H200, random weights, at its peak and at rest. With 20000 MiB it makes them, too.
        "gpu": {"count": 1, "vram_mib": 35837, "vram_least_mib": 20000},
        "start": "on-demand",
        "shipped_files": {"flux-1-dev.json": "workflows/flux-1-dev.json"},
        "models": ["flux-1-dev", "flux-text-encoders"],
        "health": {**_comfyui_health, "retries": 3, "start_budget_s": 120},
        "test": {"memory": "36g", "cpus": 4, "shm": "4g"},
        "start_order": 51,
        **_comfyui,
    },
    # For workflows of your own. It brings no models: it sees those that the other services of this host use.
    "comfyui-workflows": {
        "stack": "comfyui-workflows",
        "account": {"name": "genai-comfyui-flows", "uid": 10023, "gid": 10023},
        "port": 8191,
        "network": "comfyui-workflows",
        "memory": "40g",  # enough for the largest model of this catalogue that ComfyUI reads
        "cpus": 3,
        # As much as the largest model of this catalogue takes; a small model makes do with a small card.
        "gpu": {"count": 1, "vram_mib": 35837, "vram_least_mib": 8000},
        "start": "on-demand",
        "health": {**_comfyui_health, "retries": 3, "start_budget_s": 120},
        "test": {"memory": "36g", "cpus": 2, "shm": "4g"},
        "start_order": 52,
        **_comfyui,
    },
    "qwen3-micro": {
        "stack": "qwen3-micro",
        "account": {"name": "genai-qwen3-micro", "uid": 10011, "gid": 10011},
        "port": 5000,
        "network": "qwen3-micro",
        "memory": "16g",
        "cpus": 4,
        "gpu": {"count": 1, "vram_mib": 9339},  # 0.38 of a card with 24 GB
        "start": "on-demand",
        "options": {"context": 65536, "rope": {**_yarn, "factor": 2.0}},
        "models": ["qwen3-micro"],
        "secrets": ["VLLM_API_KEY_MICRO"],
        "auth": {"token": "VLLM_API_KEY_MICRO", **_vllm_auth},
        "health": {**_vllm_health, "start_budget_s": 600},
        "probes": [_completes("qwen3-micro")],
        "start_order": 70,
        **_vllm,
    },
    "qwen3-mini": {
        "stack": "qwen3-mini",
        "account": {"name": "genai-qwen3-mini", "uid": 10012, "gid": 10012},
        "port": 5001,
        "network": "qwen3-mini",
        "memory": "24g",
        "cpus": 6,
        "gpu": {"count": 1, "vram_mib": 11797},  # 0.48 of a card with 24 GB
        "start": "on-demand",
        "options": {"context": 65536, "rope": {**_yarn, "factor": 2.0}},
        "models": ["qwen3-mini"],
        "secrets": ["VLLM_API_KEY_MINI"],
        "auth": {"token": "VLLM_API_KEY_MINI", **_vllm_auth},
        "health": {**_vllm_health, "start_budget_s": 600},
        "probes": [_completes("qwen3-mini")],
        "start_order": 71,
        **_vllm,
    },
    "qwen3-medium": {
        "stack": "qwen3-medium",
        "account": {"name": "genai-qwen3-medium", "uid": 10013, "gid": 10013},
        "port": 5002,
        "network": "qwen3-medium",
        "memory": "32g",
        "cpus": 8,
        "gpu": {"count": 2, "vram_mib": 21627},  # 0.88 of a card with 24 GB, on each of two
        "start": "on-demand",
        "options": {"context": 70000, "rope": {**_yarn, "factor": 2.14}},
        "models": ["qwen3-medium"],
        "secrets": ["VLLM_API_KEY_MEDIUM"],
        "auth": {"token": "VLLM_API_KEY_MEDIUM", **_vllm_auth},
        "health": {**_vllm_health, "start_budget_s": 900},
        "probes": [_completes("qwen3-medium")],
        "start_order": 72,
        **_vllm,
    },
    # docs/sd35.md says what it answers.
    "stable-diffusion-35": {
        "stack": "stable-diffusion-35",
        "image": "sd35",
        "template": "sd35.yml.j2",
        "account": {"name": "genai-sd35", "uid": 10021, "gid": 10021},
        "port": 8190,
        "container_port": 8000,
        "network": "stable-diffusion-35",
        "memory": "40g",  # of which the weights, while they wait for their turn on the GPU, are about 28
        "memory_least": "28g",
        "cpus": 6,
        "pids": 1024,
        "tmp": "1g",
        # Measured on an H200 (docs/sd35.md), with SD35_OFFLOAD=model: 18105 MiB while it makes a picture, 1347 between
        # two; with `none` 32623 and 27687.
        "gpu": {"count": 1, "vram_mib": 18105},
        "start": "on-demand",
        "environment": {
            "SD35_MODEL": "stabilityai/stable-diffusion-3.5-large",
            "SD35_REVISION": "main",  # a commit or a branch, as the cache has it
            "SD35_LOAD": "start",  # or `first-request`: the GPU is taken only when somebody wants a picture
            # Its parts are on the GPU one after another: a card of 24 GB will do. `none`: all of it stays there.
            "SD35_OFFLOAD": "model",
        },
        "models": ["sd35-large"],
        "secrets": ["SD35_API_KEY"],
        "auth": {
            "token": "SD35_API_KEY",
            "locked_paths": ["/v1/models", "/metrics"],
            "locked_requests": [
                {"method": "POST", "path": "/generate"},
                {"method": "POST", "path": "/v1/images/generations"},
                {"method": "POST", "path": "/unload"},
                {"method": "POST", "path": "/cancel/gpuhost-asks"},
                {"method": "GET", "path": "/status/gpuhost-asks"},
                {"method": "GET", "path": "/health/"},
                {"method": "GET", "path": "/docs"},
                {"method": "OPTIONS", "path": "/generate"},
            ],
            "open_paths": ["/health"],
        },
        "health": {"path": "/health", "interval_s": 45, "timeout_s": 15, "retries": 3, "start_budget_s": 180},
        "probes": [
            {"name": "has its model and a GPU", "path": "/health", "json_has": {"status": "ok", "gpu_available": True}},
            {
                "name": "makes a picture",
                "method": "POST",
                "path": "/v1/images/generations",
                "body": {"prompt": "a lighthouse", "size": "256x256", "num_inference_steps": 2, "seed": 0},
                "json_has": {"size": "256x256", "seed": 0},
                "contains": '"b64_json":"iVBORw0KGgo',  # how a PNG begins
            },
        ],
        "test": {"memory": "32g", "cpus": 4},
        "start_order": 40,
        "stop_timeout_s": 40,  # the picture that is being made gets 20 of them
    },
}
verify_window_s = 5.0  # how long restart counts must stand still
