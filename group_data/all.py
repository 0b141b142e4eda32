"""What every host gets. A site changes single fields of it in a group_data folder of its own (README.md, "A site").

The types are in gpuhost/catalog/types.py, what must fit together in checks.py beside it; every mistake is reported
before any host is contacted.
"""

# --- Which services this host runs -----------------------------------------------------------------------------------
# Services that need a GPU are skipped, with a line that says so, on a host without one.
enabled_services = ["orchestrator", "comfyui-qwen"]

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
# Keys of /etc/docker/daemon.json that are ours; every other key in the file stays as it is.
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
# A downloaded key with another fingerprint is refused.
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
    "LABEL_HMAC_KEY": {"generate": "token", "about": "key of the fingerprints that tell a stale secret"},
}

# --- Images ----------------------------------------------------------------------------------------------------------
_python = "docker.io/library/python:3.12.11-slim-bookworm"
images = {
    "orchestrator": {"build": "orchestrator", "args": {"BASE_IMAGE": _python}},
    "comfyui": {"build": "comfyui", "args": {"BASE_IMAGE": _python}},
    "gpu-check": {"pull": _python},
}

# --- Models: one shared Hugging Face cache, linked into <data_root>/models/<folder>/ ----------------------------------
# "gated": True for a repository whose licence wants an account: HF_TOKEN is sent for it, and for no other.
hub_endpoint = "https://huggingface.co"
models = {
    "qwen-image-vae": {
        "repo": "Comfy-Org/Qwen-Image_ComfyUI",
        "file": "split_files/vae/qwen_image_vae.safetensors",
        "folder": "vae",
    },
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
        "start_order": 10,
    },
    "comfyui-qwen": {
        "stack": "comfyui-qwen",
        "image": "comfyui",
        "template": "comfyui.yml.j2",
        "account": {"name": "genai-comfyui-qwen", "uid": 10003, "gid": 10003},
        "port": 8188,
        "container_port": 8188,
        "network": "comfyui-qwen",
        "memory": "28g",
        "cpus": 4,
        "shm": "16g",
        "tmp": "1g",
        "gpu": {"count": 1},
        "install": "comfyui",
        "folders": ["custom_nodes"],  # ComfyUI does not start without it
        # MiB of a request: without files (the guard node's limit), and of an upload (ComfyUI's, which the guard takes).
        "environment": {"GPUHOST_MAX_BODY_MIB": "32"},
        "arguments": ["--max-upload-size=100"],
        # The key of the login's cookies. An empty one would leave the door open; the login renews it every 30 days.
        # A new password ends the sessions of the old one.
        "seeds": {"session-key.txt": {"text": "{random_key},{now}", "renew_with": "COMFYUI_PASSWORD_HASH"}},
        "config_files": {"extra_model_paths.yaml": "extra_model_paths.yaml.j2"},
        "models": ["qwen-image-vae"],
        # ComfyUI-Login takes the bcrypt hash itself as the API's bearer token.
        "auth": {
            "token": "COMFYUI_PASSWORD_HASH",
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
        "health": {"path": "/system_stats", "interval_s": 30, "timeout_s": 10, "retries": 5, "start_budget_s": 180},
        "probes": [{"name": "says its version", "path": "/system_stats", "contains": "comfyui_version"}],
        "start_order": 50,
    },
}
verify_window_s = 5.0  # how long restart counts must stand still
