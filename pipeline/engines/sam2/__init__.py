"""Segmentation with SAM2."""
