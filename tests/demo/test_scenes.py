"""The scenes: the same from one seed, with the object's mask and marks that say their number."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest

from gradcam_multi.demo.backdrops import SIDE
from gradcam_multi.demo.scenes import (
    CLASSES,
    MARK_COUNT,
    Scene,
    draw_scene,
    draw_scenes,
    load_examples,
)

SEED = 77


@pytest.fixture(scope="module")
def plain() -> list[Scene]:
    return draw_scenes(160, seed=SEED)


@pytest.fixture(scope="module")
def marked() -> list[Scene]:
    return draw_scenes(160, seed=SEED, marks="label")


def test_a_seed_gives_one_picture() -> None:
    first, again = (draw_scene(3, seed=(5, 8), mark=2) for _ in range(2))
    other = draw_scene(3, seed=(5, 9), mark=2)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.mask, again.mask)
    assert not np.array_equal(first.mask, other.mask)


@pytest.mark.parametrize("marks", ["none", "label", "random"])
def test_any_part_of_a_series_can_be_drawn(marks: str) -> None:
    whole = draw_scenes(12, seed=SEED, marks=marks)  # type: ignore[arg-type]  # parametrised
    part = draw_scenes(4, seed=SEED, marks=marks, start=7)  # type: ignore[arg-type]  # parametrised
    for scene, expected in zip(part, whole[7:11], strict=True):
        assert np.array_equal(scene.image, expected.image)
        assert (scene.label, scene.mark, scene.mark_box) == (
            expected.label,
            expected.mark,
            expected.mark_box,
        )


def test_shapes_and_types(plain: list[Scene]) -> None:
    assert len(CLASSES) == len(set(CLASSES)) >= 8
    for scene in plain:
        assert scene.image.shape == (SIDE, SIDE, 3)
        assert scene.image.dtype == np.uint8
        assert scene.mask.shape == (SIDE, SIDE)
        assert scene.mask.dtype == np.bool_
        assert scene.mark is None
        assert scene.mark_box is None


def test_classes_take_turns(plain: list[Scene]) -> None:
    assert np.bincount([scene.label for scene in plain]).tolist() == [20] * len(CLASSES)


def test_the_background_does_not_depend_on_the_object() -> None:
    """Two classes drawn from one seed differ on their masks, and nowhere far from both."""
    for index in range(20):
        one, two = (draw_scene(label, seed=(SEED, index)) for label in (index % 8, (index + 3) % 8))
        differs = (one.image != two.image).any(axis=2)
        either = one.mask | two.mask
        # The shadow lies 1 px off and the antialiased rim 1 px around: 3 px hold both.
        assert not (differs & ~_grow(either, 3)).any()
        # Only where one object stands does a pixel have two reasons to agree: none, nearly.
        only = one.mask ^ two.mask
        assert differs[only].mean() > 0.95


def test_object_is_wholly_visible_and_of_moderate_size(plain: list[Scene]) -> None:
    for scene in plain:
        rows, columns = np.nonzero(scene.mask)
        assert rows.min() > 0
        assert columns.min() > 0
        assert rows.max() < SIDE - 1
        assert columns.max() < SIDE - 1
        # 15 to 25 px of radius: from a small rocket, 3 % of the picture, to a large mug, 17 %.
        assert 0.03 < scene.mask.mean() < 0.2


def test_colour_says_nothing_of_the_class() -> None:
    """The mean colours of two classes' objects differ by no more than chance lets them."""
    scenes = draw_scenes(640, seed=SEED)
    colours = np.stack([scene.image[scene.mask].mean(axis=0) for scene in scenes])
    labels = np.array([scene.label for scene in scenes])
    hue = colours - colours.mean(axis=1, keepdims=True)
    means = np.stack([hue[labels == label].mean(axis=0) for label in range(len(CLASSES))])
    # 80 objects a class: the standard error is a ninth of the spread, and this is four of them.
    assert np.abs(means).max() < 4 * hue.std() / np.sqrt(80)


def test_the_mark_changes_its_box_only(plain: list[Scene], marked: list[Scene]) -> None:
    for without, scene in zip(plain, marked, strict=True):
        assert scene.mark_box is not None
        left, top, right, bottom = scene.mark_box
        assert not scene.mask[top:bottom, left:right].any()
        changed = (without.image != scene.image).any(axis=2)
        assert changed[top:bottom, left:right].mean() > 0.9
        changed[top:bottom, left:right] = False
        assert not changed.any()
        assert np.array_equal(without.mask, scene.mask)


def test_marks_say_their_number() -> None:
    """The nearest of the eight mean badges gives the number, whatever corner and grain."""
    badges: dict[int, list[np.ndarray]] = {mark: [] for mark in range(MARK_COUNT)}
    for mark, found in badges.items():
        for index in range(6):
            scene = draw_scene(index, seed=(SEED, mark, index), mark=mark)
            assert scene.mark == mark
            assert scene.mark_box is not None
            left, top, right, bottom = scene.mark_box
            found.append(scene.image[top:bottom, left:right].astype(float))
    means = np.stack([np.mean(found[:3], axis=0) for found in badges.values()])
    for mark, found in badges.items():
        for badge in found[3:]:
            distances = np.abs(means - badge).mean(axis=(1, 2, 3))
            assert distances.argmin() == mark
            # The grain moves a badge by about 4 levels; two numbers are several times as far.
            assert np.sort(distances)[1] > 3 * distances[mark]


def test_label_marks_follow_the_class(marked: list[Scene]) -> None:
    assert all(scene.mark == scene.label for scene in marked)


def test_random_marks_do_not_follow_the_class() -> None:
    scenes = draw_scenes(800, seed=SEED, marks="random")
    present = [scene for scene in scenes if scene.mark is not None]
    # A quarter go without, one in eight agrees; the bounds are more than four standard errors.
    assert 0.68 < len(present) / len(scenes) < 0.82
    assert 0.07 < np.mean([scene.mark == scene.label for scene in present]) < 0.18
    assert {scene.mark for scene in present} == set(range(MARK_COUNT))


def test_marks_stand_in_every_corner(marked: list[Scene]) -> None:
    assert len({scene.mark_box for scene in marked}) == 4


@pytest.mark.parametrize(("label", "mark"), [(-1, None), (len(CLASSES), None), (0, -1), (0, 8)])
def test_wrong_numbers_are_named(label: int, mark: int | None) -> None:
    with pytest.raises(ValueError, match="was asked for"):
        draw_scene(label, seed=0, mark=mark)


def test_shipped_scenes() -> None:
    scenes = load_examples()
    assert [scene.label for scene in scenes] == list(range(len(CLASSES)))
    for scene in scenes:
        assert scene.image.shape == (SIDE, SIDE, 3)
        assert scene.image.dtype == np.uint8
        assert scene.mask.shape == (SIDE, SIDE)
        assert 0.03 < scene.mask.mean() < 0.2
        assert scene.mark == scene.label
        assert scene.mark_box is not None


def test_shipped_data_is_small() -> None:
    files = list((resources.files("gradcam_multi.demo") / "data").iterdir())
    assert sum(len(file.read_bytes()) for file in files) < 1_500_000


def _grow(mask: np.ndarray, steps: int) -> np.ndarray:
    for _ in range(steps):
        padded = np.pad(mask, 1)
        mask = np.logical_or.reduce(
            [
                padded[row : row + mask.shape[0], column : column + mask.shape[1]]
                for row in range(3)
                for column in range(3)
            ]
        )
    return mask
