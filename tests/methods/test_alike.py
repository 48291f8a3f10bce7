"""A method file says what is its own: no two of them share more than a handful of lines."""

from itertools import combinations
from pathlib import Path

import foveate.methods

MOST = 6
"""What a selector's protocol makes everybody write."""


def lines(path):
    return [x for x in map(str.strip, path.read_text().splitlines()) if x and not x.startswith(("import ", "from "))]


def longest(a, b):
    """The longest run of lines that stand in both."""
    places: dict[str, list[int]] = {}
    for j, line in enumerate(b):
        places.setdefault(line, []).append(j)
    best, before = 0, {}
    for line in a:
        before = {j: before.get(j - 1, 0) + 1 for j in places.get(line, ())}
        best = max([best, *before.values()])
    return best


def test_no_two_method_files_share_more_than_a_handful_of_lines():
    assert longest(["x", "a", "b", "c"], ["a", "b", "c", "a", "b"]) == 3
    files = {p.name: lines(p) for p in Path(foveate.methods.__file__).parent.glob("*.py")}
    assert len(files) > 30
    alike = {(a, b): n for a, b in combinations(files, 2) if (n := longest(files[a], files[b])) > MOST}
    assert not alike
