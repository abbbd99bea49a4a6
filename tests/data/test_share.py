"""A fraction of the images: which, how many of each class, and that they are the same wherever they are asked for."""

import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import many, pack, png, write

from gander.data import Source, open_source, prepare
from gander.data.held_out import beside, prepare_held_out
from gander.data.layout import Entry
from gander.data.sources import cut, share
from gander.errors import UserError
from gander.probes import PROBES

FRACTIONS = st.floats(0, 1, exclude_min=True)


def listed(counts):
    """A source of so many images of each class."""
    entries = tuple(Entry(f"{label}/{i}.png", label, "", 0, ()) for label, n in enumerate(counts) for i in range(n))
    return Source("a", "a", "folder", None, (), tuple(map(str, range(len(counts)))), entries)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), FRACTIONS, FRACTIONS)
def test_each_class_has_its_part_and_a_larger_fraction_holds_a_smaller(counts, one, other):
    source, (less, more) = listed(counts), sorted((one, other))
    few, many = share(source, less), share(source, more)
    assert {*few.entries} <= {*many.entries} <= {*source.entries}
    taken = Counter(entry.label for entry in few.entries)
    for label, count in enumerate(counts):
        assert taken[label] >= 1
        assert taken[label] == 1 or abs(taken[label] - less * count) <= 0.5
    assert [entry for entry in source.entries if entry in {*few.entries}] == [*few.entries]  # in their order
    assert few.classes == source.classes
    assert share(source, 1.0) == source


def test_a_folder_its_zip_and_every_resolution_have_the_same(tmp_path):
    contents = {f"{kind}/{i}.png": png(100 * k + i) for k, kind in enumerate(("cats", "dogs")) for i in range(10)}
    sources = [
        open_source(write(tmp_path / "a", contents)),
        open_source(pack(tmp_path / "a.zip", dict(reversed(contents.items())))),
    ]
    found = [prepare(share(source, 0.3), side) for source in sources for side in (8, 4)]
    assert len({dataset.names for dataset in found}) == 1
    assert len({dataset.fingerprint for dataset in found}) == 1
    assert np.bincount(found[0].labels).tolist() == [3, 3]
    whole = prepare(sources[0], 8)
    assert whole.fingerprint != found[0].fingerprint != prepare(share(sources[0], 0.4), 8).fingerprint
    for name, image in zip(found[0].names, found[0].images, strict=True):
        assert np.array_equal(image, whole.images[whole.names.index(name)])


def test_of_what_is_trained_on_and_never_of_what_is_held_out(tmp_path):
    source, judge = beside(open_source(write(tmp_path / "a", many(40))))
    part = share(source, 0.5)
    assert len(part) == 18
    assert part.part == "training"
    assert not {entry.name for entry in part.entries} & {entry.name for entry in judge.entries}
    assert len(prepare(part, 8)) == 18


def test_a_folder_that_changes_while_a_share_of_it_is_read_is_refused(tmp_path):
    where = write(tmp_path / "a", many(20))
    part = share(open_source(where), 0.5)
    (where / part.entries[0].name).write_bytes(png(77, width=9))
    with pytest.raises(UserError, match="changed while it was read"):
        prepare(part, 8)


@pytest.mark.parametrize("channels", [1, 3])
def test_of_a_probe_the_first_are_drawn_and_no_others(monkeypatch, channels):
    monkeypatch.setattr("gander.data.sources.PROBE_IMAGES", 800)
    source = open_source("probe:count")
    part = prepare(share(source, 0.7), 16, channels=channels)
    whole = prepare(source, 16, channels=channels)
    assert len(part) == len(share(source, 0.7)) == 560  # no whole number of those that are drawn at once
    assert np.array_equal(part.images, whole.images[:560])
    assert np.array_equal(part.labels, PROBES["count"].draw(0, np.arange(560), 16)[1])
    assert part.fingerprint != whole.fingerprint != prepare(share(source, 0.1), 16, channels=channels).fingerprint


def test_what_a_probe_is_judged_by_is_the_same_for_every_fraction(monkeypatch):
    monkeypatch.setattr("gander.data.sources.PROBE_IMAGES", 500)
    monkeypatch.setattr("gander.data.held_out.PROBE_HELD_OUT", 20)
    source, judge = beside(open_source("probe:twins"))
    assert len(share(source, 0.01)) == 5
    assert prepare_held_out(judge, 16).fingerprint == prepare_held_out(source, 16).fingerprint
    assert judge.fraction == 1


def test_held_out_images_are_cut_by_the_same_order(tmp_path):
    """The lowest tenth; so a share of all images begins with these, and one of the rest does not."""
    source = open_source(write(tmp_path / "a", many(30)))
    assert share(source, 0.1).entries == cut(source, "held out").entries


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, math.nan, math.inf])
def test_what_is_no_fraction_is_refused_in_one_line(fraction):
    with pytest.raises(
        UserError, match=rf"^--fraction {re.escape(str(fraction))} is no part of the images; take a number over 0, "
    ):
        share(listed([3]), fraction)
