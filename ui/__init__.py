"""The dashboard: a client of the HTTP API, in its own process."""
