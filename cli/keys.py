"""The commands `ai-pipeline keys create | list | revoke`: manage API keys, with or without a running service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from cli.config import SERVE_CONFIG, LaunchConfig, LaunchOptions, load_config
from cli.console import console, error_console, report_errors
from cli.options import DataDir, ServeConfig
from pipeline.store import KeyStore, open_store

keys_app = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys.")

KEY_ID_CHARS = 36  # never truncated, however narrow the terminal: it is meant to be copied

Owner = Annotated[str, typer.Option(help="Owner of the images and jobs that the key gives access to.")]


@keys_app.command()
def create(
    owner: Owner,
    name: Annotated[str, typer.Option(help="Description of the key.")] = "",
    data_dir: DataDir = None,
    serve_config: ServeConfig = SERVE_CONFIG,
) -> None:
    """Create a key and print it, only once."""
    with report_errors(), _opened(_config(data_dir, serve_config)) as keys:
        key, token = keys.create(owner, name)
        error_console.print(f"Key {key.key_id} of {key.owner}. It is shown this once and kept nowhere:")
        print(token)


@keys_app.command("list")
def list_keys(
    owner: Annotated[str | None, typer.Option(help="Only this owner's keys.")] = None,
    data_dir: DataDir = None,
    serve_config: ServeConfig = SERVE_CONFIG,
) -> None:
    """List all keys, including revoked ones."""
    with report_errors(), _opened(_config(data_dir, serve_config)) as keys:
        table = Table(Column("key", min_width=KEY_ID_CHARS), "owner", "name", "made", "revoked", box=None)
        for key in keys.list(owner):
            revoked = f"{key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else ""
            table.add_row(key.key_id, key.owner, escape(key.name), f"{key.created_at:%Y-%m-%d %H:%M}", revoked)
        console.print(table)


@keys_app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, from `keys list`.")],
    data_dir: DataDir = None,
    serve_config: ServeConfig = SERVE_CONFIG,
) -> None:
    """Revoke a key for good; a running service accepts it for 10 s more at most."""
    with report_errors(), _opened(_config(data_dir, serve_config)) as keys:
        key = keys.revoke(key_id)
        console.print(f"Key {key.key_id} of {key.owner} is revoked, within 10 s everywhere.", soft_wrap=True)


def has_key(config: LaunchConfig) -> bool:
    """Whether there is any valid key."""
    with _opened(config) as keys:
        return any(key.revoked_at is None for key in keys.list())


def _config(data_dir: DataDir, serve_config: ServeConfig) -> LaunchConfig:
    return load_config(LaunchOptions(data_dir=data_dir and data_dir.absolute(), serve_config=serve_config))


@contextmanager
def _opened(config: LaunchConfig) -> Iterator[KeyStore]:
    """Open the key store that the service uses."""
    store = open_store(config.settings)
    try:
        yield store.keys
    finally:
        store.log.engine.dispose()
