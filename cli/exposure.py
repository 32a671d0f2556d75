"""Who could reach the service, and whether that was meant."""

from __future__ import annotations

import ipaddress
import os
import socket

from cli.errors import LaunchError
from cli.keys import has_key
from cli.launcher import LaunchOptions, read_config

API_KEY = "PIPELINE_API_KEY"


def check_exposure(options: LaunchOptions, *, open_to_anyone: bool) -> None:
    """Refuse to let the whole network use the service by accident.

    Raises:
        LaunchError: others than this machine could reach it, no key is needed, and nobody said that this is meant.
    """
    host = read_config(options)["http_options"]["host"]
    if not (wants_keys(options) or open_to_anyone or is_loopback(host)):
        raise LaunchError(
            f"On {host} others than this machine could reach the service, and it wants no API keys. Make one with "
            "`ai-pipeline keys create --owner me` and start with --keys; or say --open-to-anyone if that is meant."
        )


def warnings(options: LaunchOptions, *, with_dashboard: bool) -> list[str]:
    """What to tell of a service that wants keys, a sentence each."""
    if not wants_keys(options):
        return []
    found = []
    if not has_key(options):
        found.append("There is no API key yet, so nobody can use the service: `ai-pipeline keys create --owner me`.")
    if with_dashboard and not os.environ.get(API_KEY):
        found.append(f"The dashboard needs an API key like any client: set {API_KEY} and start again.")
    elif with_dashboard and not is_loopback(read_config(options)["http_options"]["host"]):
        found.append(f"Whoever reaches the dashboard acts as the owner of {API_KEY}. --no-ui serves without it.")
    return found


def wants_keys(options: LaunchOptions) -> bool:
    """Whether the service will want API keys."""
    return bool(read_config(options)["applications"][0]["args"].get("keys", "off") == "required")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; a name counts as all the addresses it has."""
    try:
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(host or None, None, flags=socket.AI_PASSIVE)}
    except OSError:
        return False
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses)
