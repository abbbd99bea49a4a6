"""What is drawn is what the map says, at the place where it says it."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_look import images, net, pointing, toy
from torch import nn

from gander import figures, look
from gander.attention import LSHAttention, SpatialSoftmaxGate
from gander.cutmix import Regions, Verdicts
from gander.grids import to_bytes

LOW, HIGH = (np.array(list(bytes.fromhex(figures.VIRIDIS.split()[i]))) for i in (0, -1))


def luminance(image):
    return np.asarray(Image.fromarray(image).convert("L"), float)


def find(whole, part):
    """Where (y, x) in a picture another one lies, by its first row."""
    whole, part = np.asarray(whole), np.asarray(part)
    for y, x in np.argwhere((whole[: whole.shape[0] - len(part) + 1, : whole.shape[1] - part.shape[1] + 1] == part[0, 0]).all(2)):
        if np.array_equal(whole[y : y + len(part), x : x + part.shape[1]], part):
            return int(y), int(x)
    return None


def test_the_brightest_cell_is_where_the_point_looks():
    """The layer and the image of tests/test_look.py: red at (1, 2) looks at blue at (6, 5), and there only."""
    seen = look.maps(pointing(), toy(), [(1, 2)])
    image = to_bytes(seen.images)[0]
    panel = figures.overlay(image, seen.layers[0].maps[0, 0, 0].numpy())
    assert panel.shape == (160, 160, 3)
    for y in range(8):
        for x in range(8):
            cell = panel[y * 20 : y * 20 + 20, x * 20 : x * 20 + 20].astype(float)
            expected = 0.35 * luminance(image)[y, x] + 0.65 * (HIGH if (y, x) == (6, 5) else LOW)
            assert np.abs(cell - expected).max() <= 1, (y, x)


def test_the_figure_holds_image_and_map_side_by_side_with_their_points():
    seen = look.maps(pointing(), toy(), [(1, 2)])
    whole = np.asarray(figures.attention(seen, "a title"))
    panel = figures.overlay(to_bytes(seen.images)[0], seen.layers[0].maps[0, 0, 0].numpy())
    y, x = find(whole, panel[60:])  # below the ring at (1, 2)
    ring, corner = (y - 60 + 30, x + 50), (y - 60, x)
    assert np.array_equal(whole[ring[0] - 2 : ring[0] + 2, ring[1] - 2 : ring[1] + 2], panel[28:32, 48:52])  # hollow
    assert tuple(whole[ring[0], ring[1] - 7]) == (0xE6, 0x9F, 0x00)
    left = corner[1] - 160 - figures.GAP
    assert tuple(whole[ring[0], left + 50 - 6]) == (0xE6, 0x9F, 0x00)  # the filled dot on the image
    assert tuple(whole[corner[0] + 130, left + 110]) == tuple(to_bytes(seen.images)[0, 6, 5])


def test_signed_maps_are_white_at_0_blue_below_and_red_above():
    grey = np.full((2, 2, 3), 100, np.uint8)
    panel = figures.overlay(grey, np.array([[0.0, -2.0], [1.0, 2.0]]), signed=True).astype(int)
    zero, low, half, high = panel[0, 0], panel[0, -1], panel[-1, 0], panel[-1, -1]
    stops = [np.array(list(bytes.fromhex(stop))) for stop in figures.RDBU.split()]
    for got, stop in ((zero, stops[5]), (low, stops[0]), (high, stops[10])):
        assert np.abs(got - (0.35 * 100 + 0.65 * stop)).max() <= 1
    assert low[2] > low[0]
    assert high[0] > high[2]
    assert half[0] > half[2]


@pytest.mark.parametrize("signed", [False, True])
def test_a_map_of_nothing_is_drawn(signed):
    panel = figures.overlay(np.zeros((4, 4, 3), np.uint8), np.zeros((2, 2)), signed=signed)
    assert (panel == panel[0, 0]).all()


@pytest.mark.parametrize(("size", "expected"), [((32, 32), 160), ((64, 64), 192), ((256, 256), 256), ((1024, 1024), 256)])
def test_panels_are_whole_multiples_or_reduced(size, expected):
    assert figures.overlay(np.zeros((*size, 1), np.uint8), np.ones((4, 4))).shape == (expected, expected, 3)


def test_oblong_images_keep_their_shape():
    assert figures.overlay(np.zeros((10, 40, 3), np.uint8), np.ones((5, 20))).shape == (40, 160, 3)


@pytest.mark.parametrize("key", ["self", "simple", "feature", "gate", "self+feature"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_has_its_figure(key, channels):
    model = net(key)
    model[0] = nn.Conv2d(channels, 16, 2, 2)
    seen = look.maps(model, images(2, channels), count=3)
    picture = figures.attention(seen, "title")
    assert picture.mode == "RGB"
    assert picture.height > 2 * 160 * len(seen.layers)
    assert np.array_equal(np.asarray(picture), np.asarray(figures.attention(seen, "title")))


def test_a_layer_of_many_heads_has_a_row_for_each_up_to_a_page():
    (layer,) = look.maps(net("self"), images(), [(0, 0)]).layers
    heads = 6
    many = layer._replace(maps=torch.rand(2, heads, 1, 8, 8), entropy=torch.rand(2, heads, 1), distance=torch.rand(2, heads, 1))
    seen = look.Maps(images(), torch.zeros(2, 1, 2, dtype=torch.long), [many])
    assert figures.attention(seen).height > heads * 160
    assert figures.attention(seen).height < 2 * heads * 160  # of the first image only


def test_bars_of_a_gate_are_its_shares():
    share = np.array([0.5, 0.25, 0.25, 0.0])
    panel = np.asarray(figures._bars(share, (160, 160)))[:160]
    blue = (panel == (0x00, 0x72, 0xB2)).all(2)
    heights = [blue[:, x].sum() for x in (60, 180, 300, 420)]
    assert heights == pytest.approx([160, 80, 80, 0], abs=3)  # twice even is the top; the line lies over some
    many = np.asarray(figures._bars(np.full(3000, 1 / 3000), (160, 160)))
    assert many.shape[1] == 480


@pytest.mark.parametrize(("channels", "panels"), [(1, 2), (2, 4), (8, 4)])
def test_a_gate_of_positions_shows_its_mean_and_the_least_even_channels(channels, panels):
    """With `count` 3: image, mean, and two channels; of one channel the mean is all."""
    gate = SpatialSoftmaxGate(channels)
    seen = look.maps(gate, images(1, channels), count=3)
    seen = seen._replace(images=images(1, 1))
    rows = figures._rows(seen.layers[0], to_bytes(seen.images), seen.positions.numpy())
    assert [len(row) for row in rows] == [panels]


def test_a_heading_says_what_is_known():
    seen = look.maps(pointing(), toy(), [(1, 2)])
    words = figures.heading(seen.layers[0])
    assert words == "0  ·  8 x 8  ·  SelfAttention  ·  gamma 0  ·  entropy 0.00  ·  mean distance 5.8 px"


def test_a_frame_has_its_image_and_a_bar_for_the_way():
    image = Image.new("RGB", (128, 64), "#204060")
    whole = np.asarray(figures.frame(image, "step 500", 0.5))
    assert whole.shape[1] == 256
    assert (whole[:128] == (0x20, 0x40, 0x60)).all()
    assert (whole[131 + 1] == (0x00, 0x72, 0xB2)).all(1).sum() == 128


def test_verdicts_are_drawn_where_they_are_said():
    """An 8 × 8 image, its left half fake: 20 px of the panel for each of its own."""
    real = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    real[..., 4:] = True
    box = torch.tensor([[[0.25, 0.5, 0.5, 1.0]]])
    said = Verdicts(torch.zeros(1), torch.where(real, 9.0, -9.0), torch.cat([box / 2, box], 1), torch.tensor([[-3.0, 4.0]]))
    grey = torch.zeros(1, 3, 8, 8)
    whole = np.asarray(figures.verdicts(grey, said, Regions(real, box, torch.ones(1, 1, dtype=torch.bool)), "title")).astype(int)
    top = figures.MARGIN + figures.TITLE + 7 + figures.GAP // 2
    panels = [whole[top : top + 160, left : left + 160] for left in (figures.MARGIN + i * (160 + figures.GAP) for i in range(3))]
    red, blue = (panels[1][80, x] for x in (40, 120))
    assert red[0] > red[2] + 40
    assert blue[2] > blue[0] + 40
    for panel in (panels[0], panels[2]):
        assert (panel[0, :80] == 0).all()
        assert (panel[0, 80:] == panel[80, 120]).all()
    bare = figures.verdicts(grey, Verdicts(torch.zeros(1), None, None, None))
    assert bare.width == 160 + 2 * figures.MARGIN


def test_buckets_of_a_layer_that_hashes_have_a_panel_of_their_own():
    """A cell's colour is its bucket's, the same for the whole cell; a layer that does not hash has a panel less."""
    layer = LSHAttention(8, heads=1, bucket=8, rounds=2).eval()
    images = torch.rand(2, 8, 8, 8)[:, :3].contiguous()
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), layer)
    seen = look.maps(model, images, [(1, 1), (6, 6)])
    (found,) = seen.layers
    assert found.buckets.shape == (2, 1, 2, 8, 8)
    drawn = figures.hashed(to_bytes(images)[0], found.buckets[0, 0, 0].numpy())
    assert find(figures.attention(seen), drawn) is not None
    assert find(figures.attention(seen._replace(layers=[found._replace(buckets=None)])), drawn) is None
    grey = np.full((8, 8, 3), 128, np.uint8)
    of = found.buckets[0, 0, 0].numpy()
    panel = figures.hashed(grey, of)
    step = figures.PANEL // 8
    for y in range(8):
        for x in range(8):
            dot = bytes.fromhex(figures.DOTS[of[y, x] % len(figures.DOTS)][1:])
            expected = [round(0.35 * 128 + 0.65 * channel) for channel in dot]
            cell = panel[y * step : (y + 1) * step, x * step : (x + 1) * step].reshape(-1, 3)
            assert (np.abs(cell.astype(int) - expected) <= 1).all()
