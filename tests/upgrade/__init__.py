"""Logs that earlier formats wrote, opened by this code."""
