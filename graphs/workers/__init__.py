"""Handles of the model deployments, and their status."""
