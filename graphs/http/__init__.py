"""HTTP: bytes to calls and back. Nothing below imports it."""
