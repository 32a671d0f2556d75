"""Thin Ray Serve shells, one round each engine. They never import each other, and torch only inside `__init__`."""
