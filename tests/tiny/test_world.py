"""The world: the same everywhere, never shared between splits, and its answers are true."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from foveate.errors import FoveateError
from foveate.tiny import world
from foveate.tiny.layout import Thing
from foveate.tiny.seeds import SPLITS, seed
from foveate.tiny.vocabulary import COLORS, PLACES, PLURALS, QUESTION_KINDS, SIZE, TIERS, UNSEEN, WORDS, noun
from foveate.tiny.world import Scene
from instruments.llava.labels import label
from instruments.llava.recipe import RECIPE
from instruments.qwen.recipe import RECIPE as QWEN

FINGERPRINT = "3dc51349f9f8b177b898e3c93ebe86475d1546e2d3a55108d820b3b0c959038a"
TEXTURED = "770bcca148fa2f83de9b48310f1de5e1da5acdec78611d77a73e68bd745df083"
SCENES = [world.scene("val", i, questions=16) for i in range(60)]


def test_pixels_questions_and_boxes_are_those_the_weights_were_trained_on() -> None:
    assert world.fingerprint() == FINGERPRINT


def test_a_scene_does_not_depend_on_what_was_asked_before() -> None:
    first, again = world.scene("test", 7), world.scene("test", 7, questions=3)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.questions[:3] == again.questions


def test_no_two_splits_share_a_seed() -> None:
    seeds = [{seed(split, i) for i in range(3000)} for split in SPLITS]
    assert sum(map(len, seeds)) == len(set().union(*seeds)) == 3 * 3000


@pytest.mark.parametrize(("split", "index", "tier"), [("dev", 0, None), ("test", -1, None), ("test", 0, "hard")])
def test_a_wrong_name_is_refused(split: str, index: int, tier: str | None) -> None:
    with pytest.raises(FoveateError):
        world.scene(split, index, tier=tier)


def test_every_kind_and_tier_occurs_and_answers_are_level() -> None:
    questions = [q for s in SCENES for q in s.questions]
    assert {q.kind for q in questions} == set(QUESTION_KINDS)
    assert {q.tier for q in questions} == set(TIERS)
    yes = Counter(q.answer for q in questions if q.kind == "exist")
    assert 0.4 < yes["yes"] / yes.total() < 0.6
    for kind in ("color", "shape", "letter", "position", "count"):
        answers = Counter(q.answer for q in questions if q.kind == kind)
        assert answers.most_common(1)[0][1] < 0.45 * answers.total(), kind


def test_every_word_is_known_to_the_tokenizer() -> None:
    words = {w for s in SCENES for q in s.questions for w in f"{q.text} {q.answer}".replace("?", " ?").split()}
    assert words <= set(WORDS)


def test_things_and_distractors_never_overlap() -> None:
    for scene in SCENES:
        painted = np.zeros((SIZE, SIZE), int)
        for item in (*scene.layout.things, *scene.layout.distractors):
            x0, y0, x1, y1 = item.box
            assert 0 <= x0 < x1 <= SIZE and 0 <= y0 < y1 <= SIZE
            painted[y0:y1, x0:x1] += 1
        assert painted.max() <= 1


def test_a_things_pixels_have_its_color() -> None:
    palette = np.array(list(COLORS.values()))
    for scene in SCENES[:20]:
        pixels = np.asarray(scene.image).astype(int)
        for thing, alpha in zip(scene.layout.things, scene.alphas, strict=True):
            x0, y0, x1, y1 = thing.box
            inside = pixels[y0:y1, x0:x1][alpha == 255]
            nearest = Counter(np.abs(inside[:, None] - palette[None]).sum(-1).argmin(-1).tolist())
            assert list(COLORS)[nearest.most_common(1)[0][0]] == thing.color


@pytest.mark.parametrize("kind", QUESTION_KINDS)
def test_answers_are_true(kind: str) -> None:
    asked = [(s, q) for s in SCENES for q in s.questions if q.kind == kind]
    assert asked
    for scene, question in asked:
        needed = [_thing_at(scene, box) for box in question.boxes]
        assert _answer(scene, question.text, needed) == question.answer, question


def _thing_at(scene: Scene, box: tuple[int, int, int, int]) -> Thing:
    (thing,) = [t for t in scene.layout.things if t.box == box]
    return thing


def _answer(scene: Scene, text: str, needed: list[Thing]) -> str:
    """The answer worked out anew from the words of the question and the things alone."""
    words = text.rstrip("?").split()
    things = scene.layout.things
    if text.startswith("how many"):
        return str(sum(PLURALS.get(t.kind) == words[2] for t in things))
    if text.startswith("is there"):
        named = " ".join(words[3:])
        return "yes" if any(f"{t.color} {noun(t.kind)}" == named for t in things) else "no"
    if text.startswith("where is"):
        (thing,) = [t for t in things if f"{t.color} {noun(t.kind)}" == " ".join(words[3:])]
        column, row = (int(c // (SIZE / 3)) for c in thing.center)
        assert needed == [thing]
        return PLACES[3 * row + column]
    if "code" in words:
        (thing,) = [t for t in things if t.kind == "plate" and t.color == words[-2]]
        return " ".join(thing.code)
    if "thing" in words:
        anchor, target = needed
        name = " ".join(words[words.index("the", words.index("thing")) + 1 :])
        assert [t for t in things if name in (noun(t.kind), f"{t.color} {noun(t.kind)}")] == [anchor]
        _check_side(words[words.index("thing") + 1], anchor, target, things)
        return target.color if words[1] == "color" else target.kind
    if words[1] == "color":
        (thing,) = [t for t in things if noun(t.kind) == " ".join(words[4:])]
        return thing.color
    wanted = {"shape": lambda t: t.kind in PLURALS, "letter": lambda t: len(t.kind) == 1}[words[1]]
    (thing,) = [t for t in things if wanted(t) and t.color == words[-1]]
    return thing.kind


def _check_side(side: str, anchor: Thing, target: Thing, things: tuple[Thing, ...]) -> None:
    """The target's box lies wholly on that side, and no other box that does, and is level with it, is nearer."""

    def gap(t: Thing) -> int:
        a, b = anchor.box, t.box
        return {"left": a[0] - b[2], "right": b[0] - a[2], "above": a[1] - b[3], "below": b[1] - a[3]}[side]

    def level(t: Thing) -> bool:
        axis = 1 if side in ("left", "right") else 0
        return anchor.box[axis] < t.box[axis + 2] and t.box[axis] < anchor.box[axis + 2]

    assert 0 < gap(target) <= 16 and level(target)
    assert not [t for t in things if t not in (anchor, target) and level(t) and 0 < gap(t) <= gap(target)]


def test_cluttered_scenes_hold_few_things_among_many_distractors() -> None:
    for i in range(20):
        layout = world.scene("val", i, tier="cluttered").layout
        assert len(layout.things) <= 5 and len(layout.distractors) >= 12


def test_distractors_are_labelled_and_are_no_things() -> None:
    scene = world.scene("val", 0, tier="cluttered")
    labels = label(scene)
    filled = labels.pattern >= 0
    boxes = [d.box for d in scene.layout.distractors]
    assert filled.any() and not (filled.ravel() & ~world.patches(boxes, 0.5)).any()
    assert np.array_equal(labels.tints.sum(-1), filled.astype(np.float32))
    assert not (filled & (labels.owner >= 0)).any()


def test_textured_scenes_are_those_that_were_measured() -> None:
    assert world.fingerprint(tier="textured") == TEXTURED


def test_a_textured_scene_has_the_layout_of_a_cluttered_one_and_another_ground() -> None:
    plain, textured = (world.scene("val", 3, tier=tier) for tier in ("cluttered", "textured"))
    assert plain.layout.things == textured.layout.things
    assert plain.layout.distractors == textured.layout.distractors
    assert [q.text for q in plain.questions] == [q.text for q in textured.questions]
    of_patches = lambda s: np.asarray(s.image, float).reshape(24, 8, 24, 8, 3).std((1, 3)).mean(-1)  # noqa: E731
    ground = ~world.patches([x.box for x in (*plain.layout.things, *plain.layout.distractors)], 1e-6).reshape(24, 24)
    rougher = (of_patches(textured) > of_patches(plain) + 5)[ground]
    assert 0.4 < rougher.mean() < 0.6


def test_no_seed_draws_and_no_lesson_asks_for_an_unseen_tier() -> None:
    assert not set(UNSEEN) & set(TIERS)
    assert not set(UNSEEN) & {t for lesson in RECIPE.lessons + QWEN.lessons for t in lesson.tiers or ()}
