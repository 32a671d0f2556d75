"""What goes wrong before the service runs."""

from __future__ import annotations


class LaunchError(Exception):
    """The service could not be started; the message says why and what to do."""
