"""The client: LogBooks over the network, with batching, sessions and retries."""
