"""How right an answer is, from 0 to 1, given the answers that people gave.

`exact` compares normalised words. `vqa` is the accuracy of VQA (arXiv 1505.00468): an answer counts in full if three of
the other people gave it, averaged over leaving out each of them in turn. With fewer than four answers that average
cannot reach 1, so there it is `exact`; this is our reading, since the data sets it was made for have ten.
"""

import re
import string
from collections.abc import Callable, Sequence

from foveate.errors import FoveateError, unknown

Metric = Callable[[str, Sequence[str]], float]
_ARTICLES = {"a", "an", "the"}
_DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_FEWEST = 4
_AGREE = 3


def normalise(text: str) -> str:
    """Lower case, no punctuation but signs and points inside numbers, no articles, digits for words up to ten."""
    text = text.lower().strip()
    text = re.sub(r"(?<=\d),(?=\d)", "", text)
    text = re.sub(r"(?<!\d)\.|\.(?!\d)", " ", text)
    text = re.sub(rf"[{re.escape(string.punctuation.replace('.', '').replace('-', ''))}]", " ", text)
    words = [w for w in text.split() if w not in _ARTICLES] or text.split()
    return " ".join(str(_DIGITS.index(w)) if w in _DIGITS else w for w in words)


def exact(answer: str, references: Sequence[str]) -> float:
    """1 if the answer is one of the references, both normalised."""
    return float(normalise(answer) in {normalise(r) for r in references})


def vqa(answer: str, references: Sequence[str]) -> float:
    """The share of people, left out in turn, against whose others the answer has min(1, agreeing / 3)."""
    if len(references) < _FEWEST:
        return exact(answer, references)
    same = [normalise(r) == normalise(answer) for r in references]
    total = sum(same)
    return sum(min(1.0, (total - own) / _AGREE) for own in same) / len(same)


METRICS: dict[str, Metric] = {"exact": exact, "vqa": vqa}


def metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        FoveateError: there is none.
    """
    if name not in METRICS:
        raise FoveateError(unknown("metric", name, METRICS, see="foveate.metrics"))
    return METRICS[name]
