"""A running service, measured from outside."""
