"""Metrics: words are compared as people would, and VQA accuracy is the published average."""

import itertools

import pytest

from foveate import FoveateError, metrics


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("The Red.", "red"),
        ("two", "2"),
        ("1,000", "1000"),
        ("t t k", "T T K"),
        ("3.5", "3.5"),
        ("-4", "-4"),
        ("a", "A!"),
    ],
)
def test_the_same_answer_in_other_words(answer: str, reference: str) -> None:
    assert metrics.exact(answer, [reference]) == 1


@pytest.mark.parametrize(
    ("answer", "reference"), [("", "red"), ("red star", "red"), ("35", "3.5"), ("4", "-4"), ("k", "t")]
)
def test_another_answer(answer: str, reference: str) -> None:
    assert metrics.exact(answer, [reference]) == 0


@pytest.mark.parametrize("agreeing", range(11))
def test_vqa_is_the_mean_over_leaving_one_person_out(agreeing: int) -> None:
    people = ["yes"] * agreeing + ["no"] * (10 - agreeing)
    want = sum(min(1, others.count("yes") / 3) for others in itertools.combinations(people, 9)) / 10
    assert metrics.vqa("Yes!", people) == pytest.approx(want)


def test_vqa_of_few_people_is_exact() -> None:
    assert metrics.vqa("yes", ["no", "yes"]) == 1
    assert metrics.vqa("maybe", ["no", "yes"]) == 0


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(FoveateError, match="did you mean 'exact'"):
        metrics.metric("exakt")
