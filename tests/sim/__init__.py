"""A small world of cores: random delivery and crashes, no sockets, everything from one seed."""
