"""A client that knows only the legacy API: standard library, five POSTs in order, every field checked.

python tests/acceptance/legacy_client.py http://127.0.0.1:8000
"""

from __future__ import annotations

import base64
import json
import re
import struct
import sys
import urllib.request
import uuid
from typing import Any

PERCENT = re.compile(r"\d{1,3}\.\d\d%")


def call(base: str, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=300) as response:
        check(response.status == 200, f"{path} answered {response.status}")
        answer: dict[str, Any] = json.load(response)
    print(f"{method} {path}: {', '.join(answer)}")
    return answer


def check(condition: bool, what: str) -> None:
    if not condition:
        raise SystemExit(f"FAILED: {what}")


def check_png(encoded: str) -> tuple[int, int]:
    data = base64.b64decode(encoded, validate=True)
    check(data[:8] == b"\x89PNG\r\n\x1a\n", "a picture is a PNG")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def check_classes(classes: list[dict[str, str]]) -> None:
    check(len(classes) == 5, "five classes")
    for entry in classes:
        check(isinstance(entry["class"], str) and entry["class"] != "", "a class has a name")
        check(PERCENT.fullmatch(entry["confidence"]) is not None, f"a confidence like 60.64%: {entry['confidence']}")
    shares = [float(entry["confidence"][:-1]) for entry in classes]
    check(shares == sorted(shares, reverse=True), "best class first")


def check_polygon(polygon: list[list[list[int]]], size: tuple[int, int]) -> None:
    for contour in polygon:
        check(len(contour) >= 3, "a contour has three points")
        for x, y in contour:
            check(type(x) is int and type(y) is int, "points are integers")
            check(0 <= x < size[0] and 0 <= y < size[1], "points lie in the picture")


def run(base: str) -> None:
    root = call(base, "GET", "/")
    check(root["status"] == "online", "online")
    check(root["device"] == "cpu" or root["device"].startswith("cuda"), "a device")

    generated = call(base, "POST", "/generate", {"prompt": "red apple in white plate"})
    uuid.UUID(generated["request_id"])
    size = check_png(generated["generated_image"])
    check_classes(generated["clip_analysis"])

    analysis = call(base, "POST", "/analyze")
    uuid.UUID(analysis["request_id"])
    check_classes(analysis["clip_scores"])
    check(analysis["clip_scores"] == generated["clip_analysis"], "the same image, the same classes")
    masks, polygons = analysis["segmentation"]["masks"], analysis["segmentation"]["polygons"]
    check(masks == [f"region_{i}" for i in range(len(masks))], "masks are named region_0, region_1, …")
    check(len(polygons) == len(masks), "a polygon for each mask")
    for polygon in polygons:
        check_polygon(polygon, size)

    probe = call(base, "POST", "/probe", {"prompt": "metal"})
    check(probe["probe_text"] == "metal", "the probe's text")
    check(PERCENT.fullmatch(probe["global_match_score"]) is not None, "a global score like 0.00%")
    check([match["region_id"] for match in probe["regional_matches"]] == list(range(len(masks))), "a match a region")
    for match in probe["regional_matches"]:
        check(isinstance(match["class_label"], str), "a match has a label")
        check(PERCENT.fullmatch(match["similarity_to_prompt"]) is not None, "a similarity like 15.65%")

    segments = call(base, "POST", "/segment")
    uuid.UUID(segments["request_id"])
    check([region["region_id"] for region in segments["segmented_regions"]] == list(range(len(masks))), "every region")
    for region, polygon in zip(segments["segmented_regions"], polygons, strict=True):
        check(re.fullmatch(r"[01]\.\d\d", region["sam_confidence"]) is not None, "a confidence like 0.99")
        check_classes(region["clip_analysis"])
        check(region["polygon"] == polygon, "the polygon that /analyze gave")

    pictures = call(base, "POST", "/visualize")
    check(pictures["status"] == "success", "success")
    check(pictures["total_regions"] == len(masks) == len(pictures["individual_spotlights"]), "a spotlight a region")
    check(check_png(pictures["master_overlay"]) == size, "the overlay is as large as the image")
    for spotlight, region in zip(pictures["individual_spotlights"], segments["segmented_regions"], strict=True):
        check(spotlight["region_id"] == region["region_id"], "spotlights in the regions' order")
        check(spotlight["top_class"] == region["clip_analysis"][0]["class"], "the region's best class")
        check(spotlight["polygon"] == region["polygon"], "the region's polygon")
        check(check_png(spotlight["spotlight_image"]) == size, "a spotlight is as large as the image")
    print(f"OK: {len(masks)} regions, pictures of {size[0]} × {size[1]}")


if __name__ == "__main__":
    run(sys.argv[1])
