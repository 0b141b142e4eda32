"""What every host of this site gets, where it differs from gpuhost's own group_data/all.py.

A mapping merges, anything else replaces, `None` takes its key away. A file named after a group of the inventory says
more for the hosts of that group. `gpuhost config --origin` shows what is in force, and which file says so.
"""

# Single fields, without copying entries:
# services = {"comfyui-qwen": {"memory": "20g", "cpus": 2}}

# Which services run; a list is replaced as a whole:
# enabled_services = ["orchestrator"]

# An entry that this site does not have:
# secrets = {"CIVITAI_TOKEN": None}

# Another disk, and nothing happens while it is not mounted:
# data_root = "/data/genai"
# data_mount = "/data"
