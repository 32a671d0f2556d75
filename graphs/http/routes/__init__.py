"""Handlers, by resource."""
