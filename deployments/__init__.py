"""Thin Ray Serve wrappers, one around each engine. They never import each other, and torch only inside `__init__`."""

HEALTH_INTERVAL_S = 2.0  # between Serve's health checks: a dead replica is replaced soon
