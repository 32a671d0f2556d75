"""Fixtures of every tier."""
