"""Text to image, as durable jobs."""
