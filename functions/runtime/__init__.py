"""Runs people's functions: the app they declare, the host, its template and its workers."""
