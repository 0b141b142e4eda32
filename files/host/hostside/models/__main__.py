import atexit
import gc
import sys

gc.disable()  # no garbage is looked for in what is imported, nor once more at the end

from hostside.models.fetch import main  # noqa: E402

gc.freeze()
gc.enable()
atexit.register(gc.freeze)
sys.exit(main())
