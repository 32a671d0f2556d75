"""docs/api.md names calls and fields that exist. The acceptance tests run its commands."""

from __future__ import annotations

import json
import re
from typing import Any

from docs.openapi import document
from pipeline.settings import PROJECT_ROOT

GUIDE = (PROJECT_ROOT / "docs" / "api.md").read_text()


def schema(name: str) -> dict[str, Any]:
    return document()["components"]["schemas"][name]


def test_the_calls_of_the_guide_exist():
    known = {re.sub(r"{\w+}", "*", path) for path in document()["paths"]}
    named = {re.sub(r"{\w+}", "*", path) for path in re.findall(r"`(?:GET|POST|PATCH|DELETE) (/v1/[\w/{}.]+)", GUIDE)}
    assert named
    assert named <= known


def test_the_json_examples_have_the_fields_of_their_schemas():
    made, region = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL))
    (image,) = made["data"]
    assert image.keys() <= schema("Image")["properties"].keys()
    assert image["parameters"].keys() <= schema("GenerationParameters")["properties"].keys()
    assert region.keys() == schema("Region")["properties"].keys()
