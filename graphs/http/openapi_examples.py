"""Examples of all schemas of the OpenAPI document, composed of examples of fields by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

IMAGE_ID = "01a22455-4899-77e5-a4bc-09300de02edc"
JOB_ID = "01a22455-3b34-7c06-8f33-8a0b53420edb"
TIME = "2026-11-28T12:00:00Z"
PNG_B64 = "iVBORw0KGgoAAAANSUhEUgAA…"

BY_NAME: Mapping[str, Any] = {
    "area": 23895,
    "attempts": 1,
    "b64_json": PNG_B64,
    "bbox": [33.0, 40.0, 174.0, 191.0],
    "body": '{"type":"image.created"}',
    "box": [33, 40, 207, 231],
    "bytes": 104_857_600,
    "code": "image_not_found",
    "concept": "red",
    "content": f"/v1/images/{IMAGE_ID}/content",
    "content_b64": None,
    "content_url": f"/v1/images/{IMAGE_ID}/content",
    "cosine": 0.2731,
    "counts": "f[8l0o6?A9J6J5L3L7I5L3M…",
    "detail": f"There is no image {IMAGE_ID}. It may belong to another owner, or have been deleted.",
    "device": "cpu",
    "delivery_id": "01a22455-5c11-7e0b-9d51-0f5f6f0f9a3e",
    "digest": "b5a6c27eceb3d70e177863f603a22597a2cb480514186f0c5a22657efe285f8b",
    "errors": None,
    "event_id": "1042",
    "file_name": f"{IMAGE_ID}.png",
    "fingerprint": "3eaa950113bd909f",
    "guidance": 3.0,
    "height": 256,
    "image_id": IMAGE_ID,
    "image_ids": [IMAGE_ID],
    "job_id": JOB_ID,
    "key_id": "01a22455-6a20-7d1c-8a42-1c5b0e8d2f77",
    "label": "apple",
    "last_error": None,
    "made_from": None,
    "mask": None,
    "mask_b64": None,
    "match": 0.999,
    "message": "prompt: is empty; send a few words.",
    "max_body_bytes": 1_000_000,
    "max_concepts": 50,
    "max_embedding_inputs": 256,
    "max_guidance": 30.0,
    "max_images": 10,
    "max_label_chars": 100,
    "max_label_texts": 256,
    "max_mask_chars": 1_000_000,
    "max_metadata": 50,
    "max_page": 100,
    "max_points": 64,
    "max_prompt_chars": 2000,
    "max_prompt_tokens": 77,
    "max_side": 256,
    "max_steps": 100,
    "max_tags": 20,
    "max_upload_bytes": 32_000_000,
    "max_wait_s": 60.0,
    "deadline_s": 300.0,
    "retention_s": 2_592_000.0,
    "min_side": 64,
    "side_multiple": 32,
    "model": "mini",
    "name": "mini",
    "negative_prompt": "",
    "next": None,
    "none_of_these": 0.0021,
    "num_steps": 15,
    "param": "prompt",
    "polygon": [[[40, 60], [120, 44], [200, 60], [190, 220], [60, 226]]],
    "polygons": [[[40, 60], [120, 44], [200, 60], [190, 220], [60, 226]]],
    "predicted_iou": 0.9858,
    "preview_url": f"/v1/jobs/{JOB_ID}/preview.png",
    "problem": None,
    "prompt": "a red apple on a white background",
    "reason": "",
    "region_id": 1,
    "request_id": "6d473e6e-d444-4a1e-9bb0-94c336968557",
    "response_status": 204,
    "score": 0.999,
    "seed": 1,
    "share": 0.9312,
    "size": [256, 256],
    "source": None,
    "stability": 0.993,
    "status": 404,
    "step": 7,
    "steps": 15,
    "strength": 0.6,
    "title": "Image not found",
    "top_class": "apple",
    "type": "image.created",
    "types": ["image.created", "job.failed"],
    "url": f"/v1/images/{IMAGE_ID}",
    "warnings": [],
    "webhook_id": "01a22455-7b31-7a5e-b0f3-2d6c1f9e3a88",
    "width": 256,
    "x": 64.0,
    "y": 64.0,
}
BY_TYPE: Mapping[str, Any] = {"string": "…", "integer": 1, "number": 1.0, "boolean": False, "object": {}, "null": None}
BY_FORMAT: Mapping[str, Any] = {"date-time": TIME, "uuid": IMAGE_ID}


def add_examples(schemas: dict[str, dict[str, Any]]) -> None:
    """Add an example to each schema that has none."""
    for name in schemas:
        if "examples" not in schemas[name]:
            schemas[name]["examples"] = [_example(schemas[name], "", schemas)]


def _example(schema: Schema, name: str, schemas: Mapping[str, Schema]) -> Any:
    """Return an example of a schema, or of a field of this name."""
    if "examples" in schema:
        return schema["examples"][0]
    for key in ("default", "const"):
        if schema.get(key) is not None:
            return schema[key]
    if "enum" in schema:
        return schema["enum"][0]
    if name in BY_NAME and _is_of_type(BY_NAME[name], schema):
        return BY_NAME[name]
    if "$ref" in schema:
        return _example(schemas[schema["$ref"].rpartition("/")[2]], name, schemas)
    if "anyOf" in schema:
        return _example(schema["anyOf"][0], name, schemas)
    if "properties" in schema:
        return {field: _example(facts, field, schemas) for field, facts in schema["properties"].items()}
    if schema.get("type") == "array":
        return [_example(schema["items"], "", schemas)] if "items" in schema else []
    return BY_FORMAT.get(schema.get("format", ""), BY_TYPE.get(schema.get("type", "null")))


def _is_of_type(value: Any, schema: Schema) -> bool:
    """Whether a value is of a type that a schema allows; it may be wrong within."""
    kinds = {option.get("type") for option in schema.get("anyOf", [schema])}
    names = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
    return ("null" if value is None else names[type(value)]) in kinds
