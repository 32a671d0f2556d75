"""Query parameters that select images, or annotate an upload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from graphs.http.pagination import MAX_PAGE, PageDep, SplitCommas, in_utc
from graphs.http.schemas.creation import MAX_TAGS, MetadataKey, MetadataValue, Tag, unique
from graphs.http.schemas.generation import PlainText
from graphs.http.validation import KEYED_PARAMETER
from graphs.images import MAX_METADATA
from pipeline.errors import InvalidRequest
from pipeline.store import ImageFilter, PageQuery

METADATA_PARAMETER = "metadata[key]"

_METADATA = TypeAdapter(Annotated[dict[MetadataKey, MetadataValue], Field(max_length=MAX_METADATA)])


async def get_metadata(
    request: Request,
    _documented: Annotated[
        PlainText | None,
        Query(alias=METADATA_PARAMETER, description="A value by key: replace `key`, as in `metadata[order]=7`."),
    ] = None,
) -> Mapping[str, str]:
    """Return the `metadata[…]` parameters of the query by key.

    Raises:
        InvalidRequest: a key or value can't be one.
    """
    given = {
        match[2]: value for name, value in request.query_params.items() if (match := KEYED_PARAMETER.fullmatch(name))
    }
    try:
        return _METADATA.validate_python(given)
    except ValidationError:
        raise InvalidRequest(
            problem="A metadata parameter can't be used. Send metadata[order]=7, with a key of 1 to 40 letters, digits "
            f"or any of '_', '.', ':', '-', and a value of 500 characters at most; {MAX_METADATA} at most."
        ) from None


MetadataDep = Annotated[Mapping[str, str], Depends(get_metadata)]
TagParameters = Annotated[
    Sequence[Tag],
    SplitCommas,
    AfterValidator(unique),
    Query(max_length=MAX_TAGS, description="Your own tags; repeat it for several."),
]


async def get_filter(
    metadata: MetadataDep,
    image_id: Annotated[
        Sequence[UUID], SplitCommas, Query(max_length=MAX_PAGE, description="Only these images; repeat it for several.")
    ] = (),
    session: Annotated[
        PlainText | None, Query(max_length=128, description="Generated or uploaded in this session.")
    ] = None,
    label: Annotated[
        PlainText | None,
        Query(max_length=128, description="One of the five best labels of the image. Known once it has been analyzed."),
    ] = None,
    prompt: Annotated[
        PlainText | None, Query(max_length=200, description="Case-insensitive substring of the prompt.")
    ] = None,
    made_from: Annotated[UUID | None, Query(description="Variations and edits of this image.")] = None,
    tag: Annotated[Sequence[Tag], SplitCommas, Query(max_length=MAX_TAGS, description="With all of these tags.")] = (),
) -> ImageFilter:
    """Return which of an owner's images a caller wants."""
    return ImageFilter(
        ids=[str(each) for each in image_id],
        session=session,
        label=label,
        prompt=prompt,
        made_from=None if made_from is None else str(made_from),
        tags=tag,
        metadata=metadata,
    )


FilterDep = Annotated[ImageFilter, Depends(get_filter)]


async def get_image_page(
    page: PageDep,
    since: Annotated[datetime | None, Query(description="The same as `created_after`.", deprecated=True)] = None,
    until: Annotated[datetime | None, Query(description="The same as `created_before`.", deprecated=True)] = None,
) -> PageQuery:
    """Return which items of the list of images a caller wants."""
    return replace(
        page,
        created_after=page.created_after or in_utc(since),
        created_before=page.created_before or in_utc(until),
    )


ImagePageDep = Annotated[PageQuery, Depends(get_image_page)]
