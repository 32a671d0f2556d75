"""Training of `models/mini`, reproducible from a seed. The service imports nothing from here."""
