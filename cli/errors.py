"""Errors of starting the service."""

from __future__ import annotations


class LaunchError(Exception):
    """The service could not be started; the message holds the reason and what to do."""
