"""Warnings of what is deprecated."""

from __future__ import annotations

import warnings

CALLER = 3  # frames up: this function, the deprecated method, its caller


def deprecated(old: str, new: str) -> None:
    """Warn that a method is deprecated.

    Args:
        old: its name, such as `client.generate`.
        new: what to call instead.
    """
    warnings.warn(f"{old} is deprecated: use {new}", DeprecationWarning, stacklevel=CALLER)
