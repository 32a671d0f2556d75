"""The command line and the launcher: the top layer, which the service itself never imports."""
