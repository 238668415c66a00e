"""The sequencers: they order what the storage nodes hold by cutting the metalog."""
