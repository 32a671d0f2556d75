"""Logs and metrics: consumers of events."""
