"""The storage nodes: they keep the frames, fold the metalog into an index and answer reads."""
