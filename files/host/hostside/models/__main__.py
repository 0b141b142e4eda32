import sys

from hostside.models.fetch import main

sys.exit(main())
