"""One fault each, told as transcripts: what was done, and what callers and the cluster said."""
