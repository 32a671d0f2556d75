"""Capacity planning: the resources that a target rate requires, from measured costs. Imports neither Ray nor torch."""
