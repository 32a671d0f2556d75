"""Warnings that accompany a successful response."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.records import AnswerWarning, Description, GenerationRequest, ImageRecord, WarningCode
from pipeline.settings import Profile
from pipeline.vocabulary import known_singular, unknown_words

MAX_NAMED = 10  # words in the sentence; the warning's `words` has all of them


def warnings_of(
    profile: Profile, request: GenerationRequest | None, description: Description | None = None
) -> tuple[AnswerWarning, ...]:
    """Return the warnings of an image, at most one of each code.

    Args:
        request: what the profile's model made the image from; None for an uploaded picture.
        description: of the whole image; None if it isn't known.
    """
    return (*_of_request(profile, request), *_of_description(profile, description))


def image_warnings(
    profile: Profile, record: ImageRecord, description: Description | None = None
) -> tuple[AnswerWarning, ...]:
    """Return the warnings of a stored image."""
    made_from = record.request if record.model else None  # an upload was made by another model
    return warnings_of(profile, made_from, description)


def _of_request(profile: Profile, request: GenerationRequest | None) -> Iterator[AnswerWarning]:
    vocabulary = profile.diffusion.vocabulary
    if request is None or vocabulary is None:
        return
    words = unknown_words(f"{request.prompt}\n{request.negative_prompt}", vocabulary)
    if words:
        yield AnswerWarning(code=WarningCode.UNKNOWN_WORDS, detail=_describe_unknown(words, vocabulary), words=words)


def _of_description(profile: Profile, description: Description | None) -> Iterator[AnswerWarning]:
    if description is None:
        return
    labelling = profile.clip.labelling
    behind = sum(score.confidence for score in description.top if score.label == labelling.background)
    unknown = description.unknown + behind
    if unknown <= labelling.max_unknown:
        return
    yield AnswerWarning(
        code=WarningCode.UNKNOWN_PICTURE,
        detail=f"The image resembles nothing that the models were trained on ({unknown:.0%} unknown): "
        "its classes and regions may mean nothing.",
    )


def _describe_unknown(words: Sequence[str], vocabulary: Sequence[str]) -> str:
    named = [f'"{word}"' for word in words[:MAX_NAMED]]
    if len(words) > MAX_NAMED:
        named.append(f"{len(words) - MAX_NAMED} more")
    listed = " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)
    singulars = {word: known_singular(word, vocabulary) for word in words[:MAX_NAMED]}
    hints = [f'"{singular}" instead of "{word}"' for word, singular in singulars.items() if singular]
    hint = f" Try {', '.join(hints)}." if hints else ""
    return f"The model does not know {listed}: the image may show something else.{hint}"
