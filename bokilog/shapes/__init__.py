"""Ways to put the cores together: in this process, or as real processes on this machine."""
