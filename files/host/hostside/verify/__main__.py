import sys

from hostside.verify.observe import main

sys.exit(main(sys.argv[1:]))
