"""pyinfra's program, as `gpuhost` starts it: while all is imported, Python does not look for what could be freed."""

import gc

gc.disable()  # config.py switches it on again

from pyinfra_cli.main import main  # noqa: E402

if __name__ == "__main__":
    main()
