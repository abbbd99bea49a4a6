"""A batch is a function of (seed, its number): every epoch once through the images, cut alike for any number of processes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gander import distributed
from gander.data.batches import Batches
from gander.errors import UserError


def numbered(n, side=2):
    """Image i is filled with i, its label is i."""
    images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, side, side, 3)).copy()
    return images, np.arange(n, dtype=np.int64)


def batches(n=20, batch=6, seed=0, **options):
    return Batches(*numbered(n), batch=batch, seed=seed, **options)


def which(batch):
    """The numbers of the images of one global batch, by their labels."""
    return torch.cat([labels for _, labels in batch]).tolist()


def as_rank(monkeypatch, rank, processes):
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    monkeypatch.setattr(distributed, "processes", lambda: processes)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 40), batch=st.integers(1, 40), epoch=st.integers(0, 5), seed=st.integers(-3, 3))
def test_an_epoch_visits_each_image_at_most_once_and_all_but_the_rest(n, batch, epoch, seed):
    if batch > n:
        batch = n
    of = batches(n, batch, seed)
    seen = [i for place in range(n // batch) for i in which(of(epoch * (n // batch) + place)[0])]
    assert len(seen) == len(set(seen)) == n // batch * batch
    assert set(seen) <= set(range(n))


def test_what_is_left_over_is_another_in_each_epoch():
    of = batches(20, 6)
    left = [set(range(20)) - {i for place in range(3) for i in which(of(epoch * 3 + place)[0])} for epoch in range(100)]
    assert set.union(*left) == set(range(20))


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(9)))
def test_any_step_can_be_asked_for_at_any_time(order):
    """Random access is sequential access, across epochs, and in another object: nothing is remembered."""
    sequential = [which(batches(20, 6, per_step=2)(step)[i]) for step in range(9) for i in range(2)]
    of = batches(20, 6, per_step=2)
    asked = {step: [which(batch) for batch in of(step)] for step in order}
    assert [one for step in range(9) for one in asked[step]] == sequential


def test_the_batches_of_a_step_follow_one_another():
    single, double, triple = (batches(20, 6, per_step=n) for n in (1, 2, 3))
    one_by_one = [which(single(step)[0]) for step in range(12)]
    assert [which(batch) for step in range(6) for batch in double(step)] == one_by_one
    assert [which(batch) for step in range(4) for batch in triple(step)] == one_by_one


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = {tuple(which(batches(20, 20, seed)(epoch)[0])) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
    assert tuple(range(20)) not in orders


def test_the_order_does_not_depend_on_the_batch():
    assert which(batches(24, 6)(0)[0]) + which(batches(24, 6)(1)[0]) == which(batches(24, 12)(0)[0])


def test_the_order_never_changes():
    """Pinned: a run that is resumed under a later gander must see the images it would have seen."""
    assert which(batches(20, 6, seed=3)(7)[0]) == [1, 9, 8, 13, 18, 6]


def test_bytes_become_exactly_x_over_127_and_a_half_minus_1():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    ((x, _),) = Batches(images, np.zeros(1, np.int64), batch=1, seed=0)(0)[0]
    expected = torch.arange(256).float() / 127.5 - 1
    assert torch.equal(x, expected.view(1, 1, 16, 16).expand(1, 3, 16, 16))
    assert x.dtype == torch.float32
    assert (x.min(), x.max()) == (-1, 1)


def test_images_are_channels_first_in_shape_and_last_in_memory():
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), np.uint8)
    ((x, y),) = Batches(images, np.arange(4), batch=4, seed=0)(0)[0]
    assert x.shape == (4, 3, 5, 6)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(((x + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy(), images[y.numpy()])


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_labels_travel_with_their_images(accumulate):
    for batch in batches(20, 6, accumulate=accumulate, per_step=2)(4):
        for images, labels in batch:
            assert torch.equal(((images + 1) * 127.5).round().long(), labels.view(-1, 1, 1, 1).expand_as(images))
            assert labels.dtype == torch.int64


def test_what_was_handed_out_is_nobody_elses():
    """Writing into a batch changes neither the images at rest nor a later batch."""
    images, labels = numbered(8)
    of = Batches(images, labels, batch=8, seed=0)
    ((x, y),) = of(0)[0]
    kept = x.clone(), y.clone()
    x.zero_(), y.zero_()
    ((again, again_labels),) = of(0)[0]
    assert torch.equal(again, kept[0])
    assert torch.equal(again_labels, kept[1])
    assert np.array_equal(images, numbered(8)[0])


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (1, 3), (2, 1), (3, 1), (2, 3), (3, 2)])
def test_a_batch_is_cut_into_micro_batches_first_and_shares_by_rank_then(processes, accumulate, monkeypatch):
    whole = which(batches(30, 12)(1)[0])
    size = 12 // (processes * accumulate)
    for rank in range(processes):
        as_rank(monkeypatch, rank, processes)
        micro = batches(30, 12, accumulate=accumulate)(1)[0]
        assert len(micro) == accumulate
        for m, (images, labels) in enumerate(micro):
            start = (m * processes + rank) * size
            assert labels.tolist() == whole[start : start + size]
            assert len(images) == size


def mapped(images, folder, mode="r"):
    images.tofile(folder / "images.u8")
    return np.memmap(folder / "images.u8", np.uint8, mode, shape=images.shape)


def test_a_memory_map_gives_what_images_in_memory_give(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8)
    labels = np.arange(20)
    loaded = Batches(images, labels, batch=6, seed=0, accumulate=2)
    there = Batches(mapped(images, tmp_path), labels, batch=6, seed=0, accumulate=2)
    assert loaded.on_device is not None
    assert there.on_device is None
    for step in range(8):
        for (a, i), (b, j) in zip(loaded(step)[0], there(step)[0], strict=True):
            assert torch.equal(a, b)
            assert torch.equal(i, j)
            assert b.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", ["memory map to a GPU", "read-only array"])
def test_images_that_may_only_be_read_are_no_matter_for_a_warning(kind, tmp_path):
    """The meta device stands for a GPU: the images are copied there whole."""
    images, labels = numbered(8)
    images.flags.writeable = False
    torch.set_warn_always(True)  # else once a process
    try:
        if kind == "read-only array":
            Batches(images, labels, batch=4, seed=0)
        else:
            Batches(mapped(images, tmp_path), labels, batch=4, seed=0, device="meta")
    finally:
        torch.set_warn_always(False)


def test_images_that_do_not_fit_stay_where_they_are(monkeypatch):
    images, labels = numbered(8)
    monkeypatch.setattr("gander.data.batches.DEVICE_SHARE", 0)
    of = Batches(images, labels, batch=4, seed=0, device="meta")
    assert of.on_device is None
    ((x, y),) = of(0)[0]
    assert (x.device.type, y.device.type, x.shape) == ("meta", "meta", (4, 3, 2, 2))


@pytest.mark.parametrize("n", [0, 1, 5])
def test_fewer_images_than_a_batch_are_refused(n):
    with pytest.raises(UserError, match=f"{n} images are fewer than a batch of 6; take --batch {max(1, n)} or less"):
        batches(n, 6)


@pytest.mark.parametrize(("batch", "accumulate", "processes"), [(6, 4, 1), (6, 1, 4), (6, 2, 2), (7, 2, 1)])
def test_a_batch_that_cannot_be_cut_evenly_is_refused(batch, accumulate, processes, monkeypatch):
    as_rank(monkeypatch, 0, processes)
    words = f"a batch of {batch} cannot be cut into {accumulate} micro-batches over {processes} processes; take a multiple of"
    with pytest.raises(UserError, match=f"{words} {accumulate * processes}"):
        batches(20, batch, accumulate=accumulate)


@pytest.mark.parametrize(("batch", "accumulate"), [(0, 1), (-4, 1), (4, 0), (4, -1)])
def test_a_batch_of_nothing_is_refused(batch, accumulate):
    with pytest.raises(UserError):
        batches(20, batch, accumulate=accumulate)
