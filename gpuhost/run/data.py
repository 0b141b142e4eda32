"""What `gpuhost` tells its pyinfra runs, by names of pyinfra's `--data`. Plain pyinfra is told nothing."""

# The stages of a deploy, in order, to which `--only` may limit a plan and an apply.
STAGES = ("engine", "layout", "gpu", "secrets", "models", "images", "installs", "stacks", "verify")

INVENTORY = "inventory.py"  # of the folder where the person stands, or of a site's, unless another file is named

REPORT_DATA = "gpuhost_report"  # the file that the run's events are written to
ALLOW_DATA = "gpuhost_allow"  # the file that holds what was planned: nothing else is done
ONLY_DATA = "gpuhost_only"  # the stages to which the run is limited, with commas
CWD_DATA = "gpuhost_cwd"  # where the person stands, when that is not the project's root
REVISIONS_DATA = "gpuhost_revisions"  # the file that holds what the plan was told by the hub
LOGS_DATA = "gpuhost_logs"  # of `gpuhost logs`: which service, how much
DIFFS_DATA = "gpuhost_diffs"  # `all`: a plan shows what is in new files and in our programs, too
IMPORT_DATA = "gpuhost_import"  # a folder on the host, of `gpuhost models import`
