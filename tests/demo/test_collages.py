"""Collages: objects, boxes and labels agree with each other and with the tiles' own scenes."""

import numpy as np
import pytest

from gradcam_multi.demo import CLASSES, draw_collages, draw_scene

NAMES = ("fish", "star")


def test_boxes_and_labels_are_those_of_the_objects():
    for collage in draw_collages(12, NAMES, rows=2, columns=3, shrink=3, seed=4):
        assert collage.image.shape == (64, 96, 3)
        assert collage.image.dtype == np.uint8
        assert len(collage.labels) == len(collage.boxes) == 6
        for number, (left, top, right, bottom) in enumerate(collage.boxes, start=1):
            rows, columns = np.nonzero(collage.objects == number)
            assert (rows.min(), rows.max() + 1) == (top, bottom)
            assert (columns.min(), columns.max() + 1) == (left, right)
            row, column = divmod(number - 1, 3)  # and it lies in its own tile
            assert 32 * row <= top < bottom <= 32 * (row + 1)
            assert 32 * column <= left < right <= 32 * (column + 1)


def test_a_tile_is_a_scene_mirrored_or_not():
    scenes = [draw_scene(CLASSES.index(NAMES[n % 2]), seed=(9, n)) for n in range(6)]
    seen = set()
    for collage in draw_collages(20, NAMES, seed=9, scenes=6):
        matches = [
            (number, turn)
            for number, scene in enumerate(scenes)
            for turn in (1, -1)
            if np.array_equal(collage.image, scene.image[:, ::turn])
            and np.array_equal(collage.objects == 1, scene.mask[:, ::turn])
        ]
        assert len(matches) == 1
        assert CLASSES[scenes[matches[0][0]].label] == NAMES[collage.labels[0]]
        seen.add(matches[0][1])
    assert seen == {1, -1}


def test_a_shrunk_tile_is_the_mean_of_blocks():
    large, small = (draw_collages(4, NAMES, seed=2, shrink=shrink, columns=2) for shrink in (1, 2))
    for whole, half in zip(large, small, strict=True):
        means = whole.image.reshape(48, 2, 96, 2, 3).mean((1, 3))
        # Rounded to whole numbers.
        assert np.abs(half.image - means).max() <= 0.5
        assert half.labels == whole.labels


def test_a_seed_gives_one_series():
    first, again, other = (draw_collages(3, NAMES, seed=seed, columns=2) for seed in (1, 1, 2))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0].image, other[0].image)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"names": ["cat"]}, "there are star"),
        ({"names": []}, "classes"),
        ({"shrink": 5}, "divisor of 96"),
        ({"scenes": 0}, "give some"),
    ],
)
def test_what_cannot_be_drawn(options, said):
    with pytest.raises(ValueError, match=said):
        draw_collages(1, **{"names": NAMES, "seed": 0, **options})
