"""placeholder"""

from foveate.bench.tasks import Task


def load(name: str, limit: int | None = None) -> Task:
    """Later."""
    raise NotImplementedError
