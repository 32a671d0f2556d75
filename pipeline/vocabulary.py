"""Words of a prompt that a model with a closed vocabulary doesn't know."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from itertools import groupby

_APOSTROPHES = "'’"


def split_words(text: str) -> list[str]:
    """Split a text into words, case-folded: runs of letters, digits and apostrophes, and single emoji such as 🍎."""
    words: list[str] = []
    for kind, characters in groupby(unicodedata.normalize("NFC", text), _kind_of):
        run = "".join(characters)
        if kind == "word":
            words.append(run.replace("’", "'").strip("'").casefold())
        elif kind == "picture":
            words.extend(run)
    return [word for word in words if word]


def unknown_words(text: str, vocabulary: Collection[str] | None) -> tuple[str, ...]:
    """Return the words of a text that aren't in a vocabulary, in order and each once.

    Args:
        text: a prompt.
        vocabulary: the words a model knows, in any case; None for a model with an open vocabulary.
    """
    if vocabulary is None:
        return ()
    known = {word.casefold() for word in vocabulary}
    return tuple(word for word in dict.fromkeys(split_words(text)) if word not in known)


def known_singular(word: str, vocabulary: Collection[str]) -> str | None:
    """Return the known singular of a simple plural, such as "apple" for "apples"; None if there is none."""
    for ending, singular_ending in (("ies", "y"), ("es", ""), ("s", "")):
        singular = f"{word.removesuffix(ending)}{singular_ending}"
        if word.endswith(ending) and singular in vocabulary:
            return singular
    return None


def _kind_of(character: str) -> str:
    if character in _APOSTROPHES:
        return "word"
    category = unicodedata.category(character)
    if category[0] in "LNM":  # letters, numbers, and the marks on letters
        return "word"
    return "picture" if category == "So" else "other"
