"""The model engines as plain Python: weights in, arrays out. No engine knows of Ray, HTTP or another engine."""
