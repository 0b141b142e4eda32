"""Which hosts this site has. This machine when nobody says otherwise; a remote one is three lines:

hosts = [
    ("gpu1", {"ssh_hostname": "192.0.2.10", "ssh_user": "admin", "ssh_key": "~/.ssh/id_ed25519", "_sudo": True}),
]

Every list is a group: `lab = ["gpu1"]` gives gpu1 what group_data/lab.py says, too.
"""

import os

# On this machine, as another user than root, commands run through sudo.
hosts = [("@local", {"_sudo": os.geteuid() != 0})]
