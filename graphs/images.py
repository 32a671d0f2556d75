"""Image repository: adds, finds, lists and removes images, and shares their pixels with the workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from graphs.concurrency import AdmissionLimiter, SingleFlight
from graphs.workers.handles import SharedImage, Workers, retry_once
from pipeline.cache import SizedLru
from pipeline.errors import InvalidRequest, NoImageYet
from pipeline.events import DomainEvent, ImageCreated, ImageDeleted
from pipeline.imaging import codecs as images
from pipeline.imaging.png_metadata import PARAMETERS, read_parameters, with_text, write_parameters
from pipeline.jobs import IdempotencyKey, Lease
from pipeline.records import NO_ANNOTATIONS, Annotations, Encoding, GenerationRequest, ImageRecord, Pixels, Upload
from pipeline.store import ImageFilter, PageQuery, Store, StoreStatistics, new_id
from pipeline.traces import span

MAX_ENCODED_BYTES = 32 << 20  # of images in other formats and sizes
MAX_METADATA = 50  # keys of an image
MAX_PNG_BYTES = 32 << 20  # of images that were just stored: their makers read them next
MAX_BYTES = 256 << 20  # of pixels that workers share


class ImageRepository:
    """The images of all owners.

    Args:
        put: makes a reference of pixels that workers can be given.
        admission: bounds the requests that have pictures decoded or encoded.
        embeds_parameters: whether a PNG says how its image was made.
        model_name: of the model that makes images.
    """

    def __init__(
        self,
        store: Store,
        workers: Workers,
        put: Callable[[Pixels], Any],
        emit: Callable[[DomainEvent], None],
        *,
        admission: AdmissionLimiter,
        embeds_parameters: bool,
        model_name: str,
    ) -> None:
        self._store = store
        self._workers = workers
        self._admission = admission
        self._embeds_parameters = embeds_parameters
        self._model_name = model_name
        self._pngs: SizedLru[str, bytes] = SizedLru(MAX_PNG_BYTES)  # of new images, by id
        self._encoded: SizedLru[tuple[str, Encoding], bytes] = SizedLru(MAX_ENCODED_BYTES)
        self._encoding: SingleFlight[tuple[str, Encoding], bytes] = SingleFlight()
        self._pixels = SharedPixelCache(store, put)
        self._emit = emit

    async def add(
        self,
        pixels: Pixels,
        *,
        owner: str,
        sessions: Sequence[str],
        request_id: str,
        started: float,
        request: GenerationRequest | None = None,
        model: str = "",
        lease: Lease | None = None,
        key: IdempotencyKey | None = None,
        annotations: Annotations = NO_ANNOTATIONS,
    ) -> ImageRecord:
        """Encode and store a new image, and make it the last one of these sessions.

        Args:
            started: of the work on it, on the monotonic clock.
            request: that it was made from; of an upload the one in its PNG, if any.
            model: fingerprint of the diffusion model; empty for an upload.
            lease: of the job whose result it is.
            key: the client's name for the request that brought it.

        Returns:
            The image, or the one that the key was used for before.

        Raises:
            IdempotencyMismatch: the key was used for another request.
            LeaseLost: another holder has the job's lease by now; nothing is stored.
        """
        digest = images.digest(pixels)
        image = self._pixels.add(digest, pixels)
        png = await self._encode(image, Encoding(), request_id)
        if request is not None and self._embeds_parameters:
            png = with_text(png, PARAMETERS, write_parameters(request, model))
        record = ImageRecord(
            image_id=new_id(),
            digest=digest,
            owner=owner,
            width=pixels.shape[1],
            height=pixels.shape[0],
            request=request,
            model=model,
            created_at=datetime.now(UTC),
            model_name=self._model_name if model else "",
            job_id=lease.job_id if lease else None,
            annotations=annotations,
        )
        created = ImageCreated(
            request_id=request_id,
            image_id=record.image_id,
            owner=owner,
            digest=digest,
            seconds=time.monotonic() - started,
        )
        with span("store image", image_id=record.image_id, size_bytes=len(png)):
            kept = await asyncio.to_thread(self._store.add, record, png, sessions, created, lease, key)
        if kept is record:
            self._pngs.put(record.image_id, png, len(png))
            self._emit(created)
        return kept

    async def upload(
        self,
        data: bytes,
        *,
        owner: str,
        sessions: Sequence[str],
        request_id: str,
        key: IdempotencyKey | None = None,
        annotations: Annotations = NO_ANNOTATIONS,
    ) -> ImageRecord:
        """Store a client's picture as the last image of its sessions.

        Raises:
            IdempotencyMismatch: the key was used for another request.
            InvalidUpload: it can't be used; says why.
            Overloaded: too many analyses are running already.
        """
        with self._admission.admit(request_id):
            upload = await self.decode_upload(data, request_id)
            return await self.add_upload(
                upload, owner=owner, sessions=sessions, request_id=request_id, key=key, annotations=annotations
            )

    async def decode_upload(self, data: bytes, request_id: str) -> Upload:
        """Decode a client's picture.

        Raises:
            InvalidUpload: it can't be used; says why.
            Overloaded: too many analyses are running already.
        """
        with self._admission.admit(request_id):
            return await retry_once("decode_upload", request_id, lambda: self._workers.decode_upload(data), self._emit)

    async def add_upload(
        self,
        upload: Upload,
        *,
        owner: str,
        sessions: Sequence[str],
        request_id: str,
        key: IdempotencyKey | None = None,
        annotations: Annotations = NO_ANNOTATIONS,
    ) -> ImageRecord:
        """Store a client's picture that was decoded.

        Raises:
            IdempotencyMismatch: the key was used for another request.
        """
        return await self.add(
            upload.pixels,
            owner=owner,
            sessions=sessions,
            request_id=request_id,
            started=time.monotonic(),
            request=read_parameters(upload.parameters),
            key=key,
            annotations=annotations,
        )

    async def history(self, owner: str, page: PageQuery, wanted: ImageFilter) -> list[ImageRecord]:
        """List an owner's images."""
        return await asyncio.to_thread(self._store.history, owner, page, wanted)

    async def annotate(
        self,
        image_id: str,
        *,
        owner: str,
        metadata: Mapping[str, str | None],
        tags: Sequence[str] | None,
        request_id: str,
    ) -> ImageRecord:
        """Change an image's annotations.

        Args:
            metadata: values to set by key; None removes a key.
            tags: the new tags; unchanged if None.

        Raises:
            ImageNotFound: the owner has none with this id.
            InvalidRequest: it would have too many keys.
        """

        def change(annotations: Annotations) -> Annotations:
            changed = annotations.changed(metadata, tags)
            if (number := len(changed.metadata)) > MAX_METADATA:
                raise InvalidRequest(problem=f"metadata would have {number} keys: {MAX_METADATA} at most.")
            return changed

        return await asyncio.to_thread(self._store.annotate, image_id, owner, change, request_id)

    async def png(self, record: ImageRecord) -> bytes:
        """Return an image's PNG: from memory if this process has just stored it, else from the store."""
        new = self._pngs.get(record.image_id)
        return new if new is not None else await asyncio.to_thread(self._store.png, record.image_id)

    async def encoded(self, record: ImageRecord, encoding: Encoding, request_id: str) -> bytes:
        """Return an image in a format and size; concurrent requests for the same share one encoding.

        Raises:
            Overloaded: too many analyses are running already.
        """
        if encoding == Encoding():
            return await self.png(record)
        with self._admission.admit(request_id):
            return await self._encode_once(record, encoding, request_id)

    async def _encode_once(self, record: ImageRecord, encoding: Encoding, request_id: str) -> bytes:
        key = record.digest, encoding

        async def encode() -> bytes:
            return await self._encode(await self.share(record), encoding, request_id)

        found = self._encoded.get(key)
        if found is None:
            found = await self._encoding.run(key, encode)
            self._encoded.put(key, found, len(found))
        return found

    async def encode(self, pixels: Pixels, encoding: Encoding, request_id: str) -> bytes:
        """Encode a small picture, (h, w, 3) uint8, that isn't kept."""
        return await self._encode(SharedImage(digest="", pixels=pixels), encoding, request_id)

    async def _encode(self, image: SharedImage, encoding: Encoding, request_id: str) -> bytes:
        return await retry_once("encode", request_id, lambda: self._workers.encode(image, encoding), self._emit)

    async def delete(self, image_id: str, *, owner: str, request_id: str) -> None:
        """Remove an image and all that was computed of it.

        Raises:
            ImageNotFound: the owner has none with this id.
        """
        await asyncio.to_thread(self._store.delete, image_id, owner, request_id)
        self._emit(ImageDeleted(request_id=request_id, image_id=image_id))

    async def find(self, image_id: str | None, *, owner: str, session: str) -> ImageRecord:
        """Look up an image by id, or the last one of a session.

        Raises:
            ImageNotFound: there is none with this id.
            NoImageYet: the session has none.
        """

        def look_up() -> ImageRecord:
            found = image_id or self._store.last_image_id(owner, session)
            if found is None:
                raise NoImageYet
            return self._store.record(found, owner)

        return await asyncio.to_thread(look_up)

    def statistics(self) -> StoreStatistics:
        """Count what is stored; blocks."""
        return self._store.statistics()

    def prune(self) -> None:
        """Drop what retention doesn't allow, and what killed writes left behind; blocks."""
        self._store.sweep()

    async def share(self, record: ImageRecord) -> SharedImage:
        """Return an image as workers take it."""
        return await self._pixels.get(record)


class SharedPixelCache:
    """The images in use, least recently used dropped first.

    Args:
        store: where an image that is not in the cache is read from.
        put: makes a reference of pixels: `ray.put`, or the identity without a cluster.
    """

    def __init__(self, store: Store, put: Callable[[Pixels], Any], max_bytes: int = MAX_BYTES) -> None:
        self._store = store
        self._put = put
        self._shared: SizedLru[str, SharedImage] = SizedLru(max_bytes)

    def add(self, digest: str, pixels: Pixels) -> SharedImage:
        """Add an image."""
        shared = SharedImage(digest=digest, pixels=self._put(pixels))
        self._shared.put(digest, shared, pixels.nbytes)
        return shared

    async def get(self, record: ImageRecord) -> SharedImage:
        """Return an image, read from the store if need be."""
        shared = self._shared.get(record.digest)
        if shared is None:
            pixels = await asyncio.to_thread(lambda: images.decode_png(self._store.png(record.image_id)))
            shared = self.add(record.digest, pixels)
        return shared
