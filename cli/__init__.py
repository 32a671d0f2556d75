"""The command line and the launcher: stands on top of everything, nothing imports it."""
