"""What makes a world: hosts, network, names, keys, images, mirrors, the cache, and how a host is looked at."""
