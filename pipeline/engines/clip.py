"""CLIP by open_clip: zero-shot classification, and vectors of pictures and texts in one space."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from cachetools import LRUCache
from open_clip import pretrained as open_clip_pretrained
from torch.nn import functional
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from pipeline.engines import weights
from pipeline.records import Descriptions, Pixels, Vectors
from pipeline.settings import ClipSettings, ZeroShotSettings

MAX_TEXTS = 1024  # cached vectors, 2 KB each at d = 512
MAX_LABEL_MATRICES = 16
TEXTS_PER_BATCH = 128
PICTURES_PER_BATCH = 64  # 39 MB of input at 224 px

_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


class ClipEngine:
    """A CLIP model on one device. Calls must not overlap in time, but may come from different threads.

    Attributes:
        device: `"cpu"` or `"cuda:0"`.
        fingerprint: digest of the weights.
        fill: RGB, the model's mean colour. Pixels filled with it normalise to about 0.

    Raises:
        ModelUnavailable: the folder is missing or incomplete, or the named weights are unavailable.
    """

    def __init__(self, settings: ClipSettings, device: str) -> None:
        name, path = find_model(settings)
        try:
            self.model: Any
            self.model, _, _ = open_clip.create_model_and_transforms(
                name,
                pretrained=settings.pretrained,
                precision=_PRECISIONS[settings.model.dtype],
                device=device,
                require_pretrained=True,
                weights_only=True,
            )
            self._tokenize = open_clip.get_tokenizer(name)
        except (OSError, ValueError, RuntimeError) as error:
            raise weights.unavailable(path, f"can't be loaded as an open_clip model ({error})") from error
        self.model.eval().requires_grad_(False)
        self.preprocess = Preprocessing(self.model.visual.preprocess_cfg, device)
        self._dtype: torch.dtype = getattr(torch, settings.model.dtype)
        self.device = device
        self.fingerprint = weights.fingerprint(path)
        red, green, blue = (round(255 * mean) for mean in self.model.visual.preprocess_cfg["mean"])
        self.fill: tuple[int, int, int] = (red, green, blue)
        self.texts: LRUCache[str, Vectors] = LRUCache(MAX_TEXTS)  # text to (d,)
        self._dimensions = self._compute_texts([""]).shape[1]
        self._label_matrix = functools.lru_cache(MAX_LABEL_MATRICES)(self._encode_labels)

    def describe(self, pictures: Sequence[Pixels], labelling: ZeroShotSettings) -> Descriptions:
        """Describe pictures by their vectors and best labels, all in one batch.

        Confidences are the softmax of `logit_scale` × cosine over all labels (arXiv:2103.00020, section 3.1), and over
        the text for "none of them", if there is one.

        Args:
            pictures: n arrays (h, w, 3) uint8 RGB, of any sizes.
            labelling: the labels, their template, the text for none of them, and how many to keep.
        """
        labels = labelling.names
        matrix = self._label_matrix(labels, labelling.template, labelling.unknown)  # (labels, or one more, d)
        vectors = self._encode_pictures(pictures) if pictures else self._no_vectors()
        scores = (labelling.logit_scale * torch.from_numpy(vectors @ matrix.T)).softmax(
            dim=1
        )  # (n, labels or one more)
        confidences, best = scores[:, : len(labels)].topk(min(labelling.top_k, len(labels)), dim=1)  # (n, k)
        return Descriptions(
            vectors=_read_only(vectors),
            labels=tuple(tuple(labels[i] for i in row) for row in best.tolist()),
            confidences=_read_only(confidences.numpy()),
            unknown=_read_only(scores[:, len(labels) :].sum(dim=1).numpy()),
        )

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Encode texts as they are, without a template; recent ones are cached.

        Returns:
            (n, d) float32, unit norm, read-only.
        """
        missing = [text for text in dict.fromkeys(texts) if text not in self.texts]
        found = {text: self.texts[text] for text in texts if text in self.texts}
        found.update(zip(missing, self._compute_texts(missing), strict=True))
        for text in found:
            self.texts[text] = found[text]
        return _read_only(np.stack([found[text] for text in texts]) if texts else self._no_vectors())

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of texts, each with its start and end token, after truncation to the model's length."""
        counts: list[int] = (self._tokenize(list(texts)) != 0).sum(dim=1).tolist()
        return counts

    def _encode_labels(self, labels: tuple[str, ...], template: str, unknown: str | None) -> Vectors:
        """Encode the prompts of labels, then the text for none of them, if there is one.

        Underscores of the data sets' labels become spaces.

        Returns:
            (labels, d), or one more row.
        """
        prompts = [template.format(label=label.replace("_", " ")) for label in labels]
        return self._compute_texts(prompts if unknown is None else [*prompts, unknown])

    @torch.inference_mode()
    def _compute_texts(self, texts: Sequence[str]) -> Vectors:
        batches = [texts[i : i + TEXTS_PER_BATCH] for i in range(0, len(texts), TEXTS_PER_BATCH)]
        encoded = [self.model.encode_text(self._tokenize(list(batch)).to(self.device)) for batch in batches]
        return _unit_norm(torch.cat(encoded)) if encoded else self._no_vectors()

    def _no_vectors(self) -> Vectors:
        return np.zeros((0, self._dimensions), np.float32)

    @torch.inference_mode()
    def _encode_pictures(self, pictures: Sequence[Pixels]) -> Vectors:
        batches = [pictures[i : i + PICTURES_PER_BATCH] for i in range(0, len(pictures), PICTURES_PER_BATCH)]
        encoded = [self.model.encode_image(self.preprocess(batch).to(self._dtype)) for batch in batches]
        return _unit_norm(torch.cat(encoded))


def find_model(settings: ClipSettings) -> tuple[str, Path]:
    """Return the model's name for open_clip, and the folder or file with its weights.

    Raises:
        ModelUnavailable: there is no such folder, or open_clip can't provide the named weights.
    """
    name = settings.model.source
    folder = weights.find(settings.model)
    if folder is not None:
        return f"local-dir:{folder}", folder
    known = open_clip_pretrained.get_pretrained_cfg(name, settings.pretrained or "")
    if not known:
        raise weights.unavailable(f"{name} ({settings.pretrained})", "are no weights that open_clip knows")
    try:
        path = Path(open_clip_pretrained.download_pretrained(known))
    except (OSError, RuntimeError) as error:
        raise weights.unavailable(f"{name} ({settings.pretrained})", f"can't be downloaded ({error})") from error
    weights.verify(path, settings.model.sha256)
    return name, path


def _unit_norm(vectors: torch.Tensor) -> Vectors:
    normed: Vectors = functional.normalize(vectors.float(), dim=-1).cpu().numpy()
    return normed


def _read_only(array: Vectors) -> Vectors:
    array.flags.writeable = False
    return array


class Preprocessing:
    """The preprocessing of one model.

    Args:
        config: its preprocessing in open_clip: `size`, `mean`, `std`, `interpolation`, `resize_mode`, `fill_color`.
        device: where batches are moved, as uint8, before normalisation.
    """

    def __init__(self, config: dict[str, Any], device: str) -> None:
        size = config["size"]
        self._size: tuple[int, int] = (size, size) if isinstance(size, int) else (size[0], size[1])
        self._interpolation = InterpolationMode(config["interpolation"])
        self._mode: str = config["resize_mode"]
        self._fill = torch.tensor(config["fill_color"], dtype=torch.uint8).expand(3)[:, None, None]
        self._device = device
        self._mean, self._std = (
            torch.tensor(config[name], device=device).view(3, 1, 1) * 255 for name in ("mean", "std")
        )

    def __call__(self, pictures: Sequence[Pixels]) -> torch.Tensor:
        """Fit n pictures, (h, w, 3) uint8 of any sizes, to (n, 3, s, s) float32, normalised."""
        batch = torch.stack([self._fit(pixels) for pixels in pictures]).to(self._device)
        normalised: torch.Tensor = (batch.float() - self._mean) / self._std
        return normalised

    def _fit(self, pixels: Pixels) -> torch.Tensor:
        """Scale a picture, and crop or pad it to the model's size, (3, s, s) uint8."""
        image = torch.tensor(pixels).permute(2, 0, 1)
        scaled: torch.Tensor = transforms.resize(
            image, self._scaled_size(image.shape[1], image.shape[2]), self._interpolation
        )
        height, width = self._size
        if scaled.shape[1:] == self._size:
            return scaled
        canvas = self._fill.repeat(1, height, width)
        top, left = (scaled.shape[1] - height) / 2, (scaled.shape[2] - width) / 2
        rows, into_rows = _overlap(top, scaled.shape[1], height)
        columns, into_columns = _overlap(left, scaled.shape[2], width)
        canvas[:, into_rows, into_columns] = scaled[:, rows, columns]
        return canvas

    def _scaled_size(self, height: int, width: int) -> list[int]:
        """Return the size to scale to, rounded as in open_clip and torchvision."""
        if self._mode == "squash":
            return list(self._size)
        ratios = height / self._size[0], width / self._size[1]
        if self._mode == "longest":
            return [max(1, round(side / max(ratios))) for side in (height, width)]
        if self._size[0] != self._size[1]:
            return [max(1, round(side / min(ratios))) for side in (height, width)]
        side = self._size[0]
        return [side, int(side * width / height)] if height <= width else [int(side * height / width), side]


def _overlap(start: float, length: int, size: int) -> tuple[slice, slice]:
    """Return which part of a side of `length` lies on a centred canvas of `size`, and where on it."""
    if start >= 0:
        first = round(start)
        return slice(first, first + size), slice(0, size)
    first = int(-start)
    return slice(0, length), slice(first, first + length)
