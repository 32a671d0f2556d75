"""Training of the miniature CLIP and its data."""
