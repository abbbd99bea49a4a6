import pytest
import torch

from gander.attention import AxialAttention, MultiHeadAttention, WindowAttention, kernels
from gander.errors import UserError

sizes = pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 9), (3, 2), (1, 1)], ids=str)


def born(kind, channels=8, **how):
    torch.manual_seed(0)
    layer = kind(channels, **{"heads": 4, **how}).double()
    torch.nn.init.constant_(layer.gamma, 0.7)
    return layer


def image(b=2, c=8, size=(8, 8)):
    return torch.randn(b, c, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def restricted(layer, x, near):
    """The maps of full attention with the same operands, over the pixels that are `near` (head, pixel, pixel)."""
    (h, w), (q, k, _) = x.shape[2:], layer.operands(x)
    places = [(i, j) for i in range(h) for j in range(w)]
    seen = torch.tensor([[[near(head, a, b) for b in places] for a in places] for head in range(layer.heads)])
    scores = torch.exp(q @ k.mT * layer.scale) * seen
    return (scores / scores.sum(-1, keepdim=True)).unflatten(-1, (h, w))


@sizes
@pytest.mark.parametrize("shifted", ["none", "half", "all"])
@pytest.mark.parametrize("side", [3, 4])
def test_windows_are_squares_and_shifted_ones_lie_between(size, shifted, side):
    layer, x = born(WindowAttention, size=side, shifted=shifted), image(size=size)
    moved = {"none": [], "half": [2, 3], "all": [0, 1, 2, 3]}[shifted]

    def near(head, a, b):
        """In the same window on both axes; a window is as long as the axis at most, and half of it lies outside if shifted."""
        steps = [min(side, length) for length in size]
        starts = [step // 2 if head in moved else 0 for step in steps]
        cells = [[(at + start) // step for at, start, step in zip(p, starts, steps, strict=True)] for p in (a, b)]
        return cells[0] == cells[1]

    torch.testing.assert_close(layer.weights(x), restricted(layer, x, near))


@sizes
def test_axial_heads_see_the_row_or_the_column(size):
    layer, x = born(AxialAttention), image(size=size)
    torch.testing.assert_close(layer.weights(x), restricted(layer, x, lambda head, a, b: a[head // 2] == b[head // 2]))


@pytest.mark.parametrize("layer", [born(WindowAttention, size=3), born(AxialAttention)], ids=["window", "axial"])
@pytest.mark.parametrize("way", kernels.WAYS)
def test_every_way_is_the_same(monkeypatch, layer, way):
    x = image(size=(5, 7))
    maps = layer.weights(x).flatten(3)
    o = (maps @ layer.operands(x)[2]).transpose(2, 3).flatten(1, 2).view_as(x)
    monkeypatch.setattr(kernels, "choose", lambda *_: way)
    torch.testing.assert_close(layer(x), x + 0.7 * layer.output(o))


def test_one_window_is_full_attention():
    layer, full, x = born(WindowAttention, shifted="none"), born(MultiHeadAttention), image(size=(5, 7))
    assert torch.equal(layer.query.weight, full.query.weight)
    torch.testing.assert_close(layer(x), full(x))


def test_what_a_pixel_does_is_seen_in_its_windows_alone():
    layer, x = born(WindowAttention, size=4), image(size=(12, 12))
    y = layer(x)
    x[:, :, 5, 5] += 1
    changed = ((layer(x) - y).abs() > 1e-9).any(1).any(0)
    expected = torch.zeros(12, 12, dtype=torch.bool)
    expected[4:8, 4:8] = expected[2:6, 2:6] = True
    assert torch.equal(changed, expected)


def test_two_axial_layers_see_the_whole_image():
    first, second, x = born(AxialAttention), born(AxialAttention), image(1, size=(4, 5))
    y, z = first(x), second(first(x))
    x[:, :, 1, 2] += 1
    assert ((first(x) - y).abs() > 1e-9).any(1).sum() == 4 + 5 - 1
    assert ((second(first(x)) - z).abs() > 1e-9).any(1).all()


@pytest.mark.parametrize("kind", [WindowAttention, AxialAttention])
def test_no_map_of_all_pixels_is_made(kind):
    """A million pixels: their map would have 10¹² numbers, and here nothing more than 64 of one's own is made of each."""
    layer = born(kind, 2, heads=2).to("meta")
    assert layer(torch.empty(1, 2, 1024, 1024, device="meta")).shape == (1, 2, 1024, 1024)


def test_mistakes_are_named():
    with pytest.raises(UserError, match=r"windows of attention got size=0; take a side of 1 or more pixels, such as 8"):
        WindowAttention(8, size=0)
    with pytest.raises(UserError, match=r"no choice of shifted heads called 'halv'; did you mean 'half'"):
        WindowAttention(8, shifted="halv")
    for layer in (WindowAttention, AxialAttention):
        with pytest.raises(UserError, match=f"{layer.__name__} got heads=1 for 8 channels; take 2 to 8"):
            layer(8, heads=1)
    assert WindowAttention(8, heads=1, shifted="all").heads == 1
