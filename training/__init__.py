"""How `models/mini` is made. Reproducible from a seed; nothing here is imported by the service."""
