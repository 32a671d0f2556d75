"""How much of what a wanted rate takes: arithmetic on measured costs. Imports neither Ray nor torch."""
