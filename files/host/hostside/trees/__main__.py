import sys

from hostside.trees.record import main

sys.exit(main(sys.argv[1:]))
