"""What runs on the log: the engine of a function node, the functions and their libraries."""
