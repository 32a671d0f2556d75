"""What the README's figures come from. Nothing here is imported by the service."""
