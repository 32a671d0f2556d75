"""Costs of single operations, and what `planning` predicts from them."""
