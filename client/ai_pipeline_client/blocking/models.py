# Generated from aio/models.py by scripts/write_client.py: do not edit.
"""`client.models`: the models of the service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, List, Union
from urllib.parse import quote

from ai_pipeline_client.blocking.connection import Connection
from ai_pipeline_client.decoding import decoded
from ai_pipeline_client.results import Model


class Models:
    """The models of the service. Every method raises `PipelineError`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> List[Model]:
        """Get all models."""
        return self._connection.get("/v1/models", lambda payload: [_model(model) for model in payload["data"]])

    def get(self, model: Union[Model, str]) -> Model:
        """Get a model with its capabilities, defaults, limits, schedulers and labels.

        Args:
            model: the model, or its id.

        Raises:
            NotFound: there is no such model.
        """
        model_id = model.id if isinstance(model, Model) else model
        return self._connection.get(f"/v1/models/{quote(model_id, safe='')}", _model)


def _model(payload: Mapping[str, Any]) -> Model:
    return decoded(Model, {**payload, "raw": payload})
