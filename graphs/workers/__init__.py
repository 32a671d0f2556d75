"""Handles of the model deployments, and what is known of them."""
