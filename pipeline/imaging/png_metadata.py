"""Generation parameters in a PNG's text, in the format of other tools.

The text `parameters` holds the prompt, a line `Negative prompt: …` if there is one, and a last line
`Steps: 15, Sampler: DDIM, CFG scale: 3, Seed: 7, Size: 128x128, …` (AUTOMATIC1111's stable-diffusion-webui).
"""

from __future__ import annotations

import re
import struct
import zlib
from importlib.metadata import version

from pipeline.records import GenerationRequest, Scheduler

PARAMETERS = "parameters"
SOURCE = "Denoising strength"  # of an image that was generated from another one
MAX_CHARS = 2000  # maximum length of a prompt that is read
MAX_TEXT_CHARS = 3 * MAX_CHARS
MAX_STEPS = 1000
MAX_SIDE = 16384
SEEDS = 2**32

SAMPLERS = {
    Scheduler.PNDM: "PLMS",
    Scheduler.DDIM: "DDIM",
    Scheduler.EULER: "Euler",
    Scheduler.EULER_A: "Euler a",
    Scheduler.DPMPP_2M: "DPM++ 2M",
    Scheduler.LCM: "LCM",
    Scheduler.UNIPC: "UniPC",
}
_SCHEDULERS = {name.lower(): scheduler for scheduler, name in SAMPLERS.items()}
_NEGATIVE = "\nNegative prompt: "
_FIELD = re.compile(r"(?:^|, *)([A-Za-z][\w ]{0,40}): *(\"(?:\\.|[^\\\"])*\"|[^,]*)")
_HEADER_BYTES = 33  # signature and IHDR, after which a text chunk may follow


def write_parameters(request: GenerationRequest, model: str) -> str:
    """Format the parameters of an image.

    Args:
        model: fingerprint of the diffusion model; empty if it isn't known.
    """
    fields: dict[str, object] = {
        "Steps": request.steps,
        "Sampler": SAMPLERS[request.scheduler],
        "CFG scale": f"{request.guidance:g}",
        "Seed": request.seed,
        "Size": f"{request.width}x{request.height}",
    }
    if model:
        fields["Model hash"] = model[:10]
    if request.source is not None:
        fields[SOURCE] = f"{request.source.strength:g}"
    fields["Version"] = f"ai-pipeline {version('ai-pipeline')}"
    negative = f"{_NEGATIVE}{request.negative_prompt}" if request.negative_prompt else ""
    return f"{request.prompt}{negative}\n" + ", ".join(f"{name}: {value}" for name, value in fields.items())


def read_parameters(text: str) -> GenerationRequest | None:
    """Parse the parameters that this or another tool wrote; return None if they don't determine the image."""
    if len(text) > MAX_TEXT_CHARS:
        return None
    prompts, _, last = text.strip().rpartition("\n")
    prompt, _, negative = prompts.partition(_NEGATIVE)
    fields = dict(_FIELD.findall(last))
    scheduler = _SCHEDULERS.get(fields.get("Sampler", "").lower())
    if scheduler is None or not prompt or SOURCE in fields or not all(map(_is_plain, (prompt, negative))):
        return None  # generated from another image, which isn't known
    try:
        width, height = map(int, fields["Size"].split("x"))
        steps, seed, guidance = int(fields["Steps"]), int(fields["Seed"]), float(fields["CFG scale"])
    except (KeyError, ValueError):
        return None
    is_sane = 1 <= steps <= MAX_STEPS and 0 <= seed < SEEDS and 0 <= guidance <= MAX_STEPS
    if not is_sane or not all(1 <= side <= MAX_SIDE for side in (width, height)):
        return None
    return GenerationRequest(
        prompt=prompt,
        negative_prompt=negative,
        width=width,
        height=height,
        steps=steps,
        guidance=guidance,
        seed=seed,
        scheduler=scheduler,
    )


def with_text(png: bytes, keyword: str, text: str) -> bytes:
    """Add a text to a PNG: as `tEXt` where Latin-1 can hold it, else as `iTXt` (PNG, third edition, 11.3.3)."""
    try:
        kind, body = b"tEXt", keyword.encode("latin-1") + b"\0" + text.encode("latin-1")
    except UnicodeEncodeError:
        kind, body = b"iTXt", keyword.encode("latin-1") + b"\0\0\0\0\0" + text.encode()
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return png[:_HEADER_BYTES] + chunk + png[_HEADER_BYTES:]


def _is_plain(text: str) -> bool:
    return len(text) <= MAX_CHARS and all(c.isprintable() or c in "\n\t" for c in text)
