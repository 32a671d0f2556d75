"""Thin Ray Serve shells, one round each engine. They never import each other, and torch only inside `__init__`."""

HEALTH_INTERVAL_S = 2.0  # between Serve's looks whether a replica is there: a dead one is replaced soon
