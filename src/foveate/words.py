"""Which words of a question count, for methods whose papers read its nouns: "nouns" by a parser, "content" by a list.

spaCy tells nouns, with the model that the papers used, and is asked for by name only: nothing here needs it otherwise.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from foveate.errors import PlanError, install, short

Spans = list[tuple[int, int]]
Words = str | Callable[[str], Sequence[tuple[int, int]]]
"""A name of a rule, or a function: text -> (start, end) of each word that counts."""
RULES = ("content", "nouns")
MODEL = "en_core_web_sm"
NOUNS = ("NOUN", "PROPN")

# Words that name nothing in a picture: articles, pronouns, auxiliaries, prepositions, and those that ask.
_LISTED = """
a about above after again all also am an and any are as at be been before being below between both but by can could
did do does doing done down during each either else few for from further had has have having he her here hers him his
how i if in into is it its itself just many may me might more most much must my neither no nor not now of off on once
one only or other our ours out over own please same shall she should so some such than that the their theirs them then
there these they this those through to too under until up us very was we were what when where which while who whom
whose why will with would yes you your yours answer describe question using
"""
_FUNCTION = frozenset(_LISTED.split())


def check_words(words: Words) -> None:
    """Refuse what is neither a rule nor a function.

    Raises:
        PlanError: it is not.
    """
    if not callable(words) and words not in RULES:
        raise PlanError(f"words is {short(repr(words))}; it must be one of {', '.join(RULES)}, or a function of a text")


def rule(words: Words) -> Callable[[str], Spans]:
    """The function that a rule's name stands for, or the given one, held to its word.

    Raises:
        PlanError: no such rule, or what it needs is not installed.
    """
    check_words(words)
    if callable(words):
        return lambda text: _checked(words(text), text, words)
    return content if words == "content" else _nouns(_parser())


def content(text: str) -> Spans:
    """Every word but those that name nothing: English alone, other languages keep all of theirs."""
    found = [(m.start(), m.end()) for m in re.finditer(r"\w+(?:['’]\w+)?", text)]
    return [(a, b) for a, b in found if re.split("['’]", text[a:b].lower())[0] not in _FUNCTION]


def tokens_of(spans: Spans, ends: Sequence[int], text: str) -> list[bool]:
    """Whether each token holds a part of a word that counts.

    Args:
        spans: of the words.
        ends: where each token's text ends in the whole.
        text: the whole.
    """
    letters = [False] * len(text)
    for a, b in spans:
        letters[a:b] = [not text[i].isspace() for i in range(a, b)]
    starts = [0, *ends[:-1]]
    return [any(letters[a:b]) for a, b in zip(starts, ends, strict=True)]


def _checked(spans: Any, text: str, who: Any) -> Spans:
    try:
        found = [(int(a), int(b)) for a, b in spans]
    except (TypeError, ValueError):
        found = [(1, 0)]
    if not all(0 <= a <= b <= len(text) for a, b in found):
        raise PlanError(
            f"words={short(repr(who))} answered {short(repr(spans))} of a text of {len(text)} letters; it must answer "
            "(start, end) of each word that counts"
        )
    return found


def _nouns(parse: Any) -> Callable[[str], Spans]:
    return lambda text: [(t.idx, t.idx + len(t.text)) for t in parse(text) if t.pos_ in NOUNS]


@lru_cache(maxsize=1)
def _parser() -> Any:
    try:
        import spacy
    except ImportError:
        raise PlanError(
            f'words="nouns" needs spaCy: {install("words")}, then python -m spacy download {MODEL}; or use '
            'words="content", which leaves out a list of English function words, or a function of your own'
        ) from None
    try:
        return spacy.load(MODEL)
    except OSError:
        raise PlanError(
            f'words="nouns" needs the spaCy model {MODEL}: python -m spacy download {MODEL}; or words="content", or a '
            "function of your own"
        ) from None
