"""Only some words of the question count: nouns, as ResPrune, CRISP and MMTok have it, or what you say.

    plan = worded(resprune(keep=64))                      # words="nouns", by spaCy: pip install '.[words]'
    plan = worded(mmtok(keep=64), words="content")        # all but English function words, without a parser
    plan = worded(crisp(keep=64), words=my_function)      # text -> (start, end) of each word that counts

Around any selector that reads the question's word embeddings. A word of several tokens counts with all of them. Where
no word counts, all do: ResPrune's paper then weighs all tokens alike. Papers that cut a benchmark's format instructions
out of the prompt first (ResPrune prices that at a point) know the benchmark; a function can do the same.
"""

from dataclasses import dataclass

from foveate.errors import PlanError
from foveate.methods.wrapper import Wrapper, each_cut
from foveate.plan import Plan
from foveate.typed import checked
from foveate.words import Words, check_words


@dataclass(frozen=True)
class Worded(Wrapper):
    """As the selector inside, which is shown the embeddings of some words alone; the engine picks them.

    Args:
        select: which tokens stay.
        text_words: which words count: "nouns", "content", or a function (no plan file can hold that).
    """

    text_words: Words = "nouns"

    def __post_init__(self) -> None:
        if "text_BTD" not in self.select.reads:
            raise PlanError(f"{type(self.select).__name__} reads no words of the question; leave worded(...) out")
        check_words(self.text_words)


@checked
def worded(plan: Plan, words: Words = "nouns") -> Plan:
    """The plan, with some words of the question counting. Hugging Face engine only; it reads by the model's tokenizer.

    Args:
        plan: any whose selectors read the question's words, over images.
        words: "nouns" (by spaCy, refused at attach where that is not installed), "content", or a function from the
            question's text to (start, end) of each word that counts.
    """
    return each_cut(plan, lambda cut: Worded(cut.select, words))
