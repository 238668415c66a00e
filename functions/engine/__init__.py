"""The engine of a function node: numbers frames, finds their seqnums, answers reads nearby."""
