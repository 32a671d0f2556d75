"""Image to regions."""
