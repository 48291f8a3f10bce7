"""A user's own questions: one JSON object a line with image, question and answer (`foveate.data`)."""

from foveate import data
from foveate.bench.tasks import Task
from foveate.metrics import metric


def load(name: str, limit: int | None = None, max_new_tokens: int = 16, metric_name: str = "vqa") -> Task:
    """The examples of a file, with the VQA accuracy; with fewer than four answers to a question that is exact match.

    Raises:
        FoveateError: the file cannot be read, a line is no example, or one has no answer.
    """
    examples = data.load(name, labelled=True)[:limit]
    score = metric(metric_name)
    many = any(len(e.answers) > 1 for e in examples)
    title = "VQA accuracy" if metric_name == "vqa" and many else "exact match"
    return Task(name, examples, lambda a, e: score(a, e.answers), title, max_new_tokens)
