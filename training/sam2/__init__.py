"""Training of the miniature SAM2 and its point and box prompts."""
