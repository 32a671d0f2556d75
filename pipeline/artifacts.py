"""Serialisation of results for the cache and the store.

The container is safetensors, so that reading one never runs code: arrays as they are, everything else as JSON in an
array of its own, PNG files and run lengths as byte arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline.records import Artifact, Descriptions, Drawings, Segmentation

FORMAT_VERSION = 2  # part of every cache key: bytes of an older format are never read

_Arrays = dict[str, np.ndarray[Any, Any]]


def encode(artifact: Artifact) -> bytes:
    """Serialise a stage's result."""
    match artifact:
        case Segmentation():
            arrays: _Arrays = {
                "boxes": artifact.boxes,
                "predicted_iou": artifact.predicted_iou,
                "stability": artifact.stability,
                **_pack("rles", artifact.rles),
            }
            facts: dict[str, Any] = {"size": artifact.size, "polygons": artifact.polygons}
        case Descriptions():
            arrays = {
                "vectors": artifact.vectors,
                "confidences": artifact.confidences,
                "unknown": artifact.unknown,
            }
            facts = {"labels": artifact.labels}
        case Drawings():
            arrays = _pack("pngs", (artifact.overlay, *artifact.spotlights))
            facts = {}
    header = orjson.dumps({"type": type(artifact).__name__, **facts})
    return save({"header": np.frombuffer(header, np.uint8), **arrays})


def decode(data: bytes) -> Artifact:
    """Deserialise what `encode` wrote.

    Raises:
        ValueError: the bytes are no artifact.
    """
    try:
        arrays = load(data)
        facts = orjson.loads(arrays["header"].tobytes())
        for array in arrays.values():
            array.flags.writeable = False
        match facts["type"]:
            case "Segmentation":
                return Segmentation(
                    size=tuple(facts["size"]),
                    rles=tuple(_unpack("rles", arrays)),
                    boxes=arrays["boxes"],
                    predicted_iou=arrays["predicted_iou"],
                    stability=arrays["stability"],
                    polygons=tuple(facts["polygons"]),
                )
            case "Descriptions":
                return Descriptions(
                    vectors=arrays["vectors"],
                    labels=tuple(map(tuple, facts["labels"])),
                    confidences=arrays["confidences"],
                    unknown=arrays["unknown"],
                )
            case "Drawings":
                overlay, *spotlights = _unpack("pngs", arrays)
                return Drawings(overlay=overlay, spotlights=tuple(spotlights))
            case other:
                raise ValueError(f"unknown artifact type {other!r}")
    except (SafetensorError, KeyError, TypeError, orjson.JSONDecodeError) as error:
        raise ValueError(f"not an artifact: {error!r}") from error


def _pack(name: str, blobs: Sequence[bytes]) -> _Arrays:
    """Concatenate byte strings and keep their ends, as numpy has no ragged arrays."""
    return {
        name: np.frombuffer(b"".join(blobs), np.uint8),
        f"{name}_ends": np.cumsum([0, *map(len, blobs)], dtype=np.int64)[1:],
    }


def _unpack(name: str, arrays: _Arrays) -> list[bytes]:
    data = arrays[name].tobytes()
    ends = arrays[f"{name}_ends"].tolist()
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
