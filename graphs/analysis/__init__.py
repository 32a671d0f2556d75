"""Image to description, regions and drawings."""
