"""The kinds of objects in the scenes, and how each is drawn."""
