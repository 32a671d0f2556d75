"""Checks of the service's exposure: its bind address, and whether it requires API keys."""

from __future__ import annotations

import ipaddress
import os
import socket

from cli.config import LaunchConfig
from cli.errors import LaunchError
from cli.keys import has_key

API_KEY = "PIPELINE_API_KEY"


def check_exposure(config: LaunchConfig, *, open_to_anyone: bool) -> None:
    """Refuse to expose the service to the network by accident.

    Raises:
        LaunchError: the bind address isn't loopback, no API key is required, and `open_to_anyone` is not set.
    """
    if not (config.requires_keys or open_to_anyone or is_loopback(config.host)):
        raise LaunchError(
            f"On {config.host} other machines could reach the service, and it requires no API keys. Create one with "
            "`ai-pipeline keys create --owner me` and start with --keys; or pass --open-to-anyone if that is intended."
        )


def warnings(config: LaunchConfig, *, with_dashboard: bool) -> list[str]:
    """Return warnings about a service that requires API keys, a sentence each."""
    if not config.requires_keys:
        return []
    found = []
    if not has_key(config):
        found.append("There is no API key yet, so no client can use the service: `ai-pipeline keys create --owner me`.")
    if with_dashboard and not os.environ.get(API_KEY):
        found.append(f"The dashboard needs an API key like any client: set {API_KEY} and start again.")
    elif with_dashboard and not is_loopback(config.host):
        found.append(f"Anyone who reaches the dashboard acts as the owner of {API_KEY}. --no-ui serves without it.")
    return found


def is_loopback(host: str) -> bool:
    """Whether a bind address is loopback, so that only this machine can reach it; of a name, whether all of its are."""
    try:
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(host or None, None, flags=socket.AI_PASSIVE)}
    except OSError:
        return False
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses)
