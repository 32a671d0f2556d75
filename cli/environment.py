"""The environment variables that Ray and the libraries read at import, except those of the ingress."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

RAY_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_SESSION_ID_HEADER_KEY": "x-serve-session-id",  # X-Session-ID is ours
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

# On one machine. Ray's workers otherwise have niceness 15: with two busy processes on two cores, an image's first step
# took 11 s with that, and 1 s with the niceness of any other process.
NICENESS = "RAY_worker_niceness", "0"

# For the processes that Ray starts, not for this one. No deployment blocks its event loop, so one loop per process is
# enough, which reduces a cached call from 16 ms to 12; but handles here are used outside of any loop.
WORKER_ENVIRONMENT = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}


def prepare_environment(data_path: Path) -> None:
    """Set the variables that are read at import here and, by inheritance, in every worker."""
    token = data_path / "ray-token"
    if not token.exists():
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
    os.environ.setdefault(*NICENESS)
    os.environ.update(RAY_ENVIRONMENT, RAY_AUTH_TOKEN_PATH=str(token))
    os.environ.pop("RAY_AUTH_TOKEN", None)
    os.environ.pop("RAY_ADDRESS", None)


@contextmanager
def child_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the child processes started in the block; restore them when it ends."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
