"""Durable calls: accepted means appended, so that none is lost."""
