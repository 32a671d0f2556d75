"""Which words of a prompt a model doesn't know, where it knows a closed list of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from itertools import groupby

_APOSTROPHES = "'’"


def split_words(text: str) -> list[str]:
    """Split a text into its words, in lower case: runs of letters, digits and apostrophes, and pictures such as 🍎."""
    words: list[str] = []
    for kind, characters in groupby(unicodedata.normalize("NFC", text), _kind_of):
        run = "".join(characters)
        if kind == "word":
            words.append(run.replace("’", "'").strip("'").casefold())
        elif kind == "picture":
            words.extend(run)
    return [word for word in words if word]


def unknown_words(text: str, vocabulary: Collection[str] | None) -> tuple[str, ...]:
    """List the words of a text that aren't in a vocabulary, in their order and each once.

    Args:
        text: a prompt.
        vocabulary: the words a model knows, in any case; None for a model of open language, which knows all.
    """
    if vocabulary is None:
        return ()
    known = {word.casefold() for word in vocabulary}
    return tuple(word for word in dict.fromkeys(split_words(text)) if word not in known)


def known_singular(word: str, vocabulary: Collection[str]) -> str | None:
    """Return the known word of which a word is a simple plural, as "apple" for "apples"; None if there is none."""
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
