"""The page in a real browser, from the disk: nothing is asked for elsewhere, and the maps are those of the layer."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from gander import explorer, look
from gander.figures import STRENGTH, VIRIDIS, _colours
from gander.grids import to_bytes
from gander.report import write
from gander.sampling import load_generator
from gander.train.samples import latents_of

pytest_plugins = "browser"

SIDE = 256  # px of a canvas


@pytest.fixture
def page(made, tmp_path):
    explorer.prepare(made.run)
    out = tmp_path / "page.html"
    write([made.run.folder], out)
    return out


def opened(visit, page, **options):
    visited = visit(page.as_uri(), **options)
    visited.page.wait_for_selector("#panels canvas")
    return visited


def drawn(page, number):
    """uint8 (h, w, 3): the canvas of a panel."""
    url = page.evaluate("n => document.querySelectorAll('#panels canvas')[n].toDataURL()", number)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")).astype(float)


def expected(image, heat):
    """The colours over the grey image, in the middle of quarters of cells, so that no frame is in the way."""
    grey = np.asarray(image).astype(float) @ [0.299, 0.587, 0.114]
    at = np.arange(4, SIDE, 8)  # cells of 32 px, pixels of 16 px: these lie in the middle of none, on the edge of none
    level = heat / np.abs(heat).max()
    (h, w), (k, l) = grey.shape, level.shape
    colours = _colours(VIRIDIS, level[at * k // SIDE][:, at * l // SIDE])
    return at, (1 - STRENGTH) * grey[at * h // SIDE][:, at * w // SIDE][..., None] + STRENGTH * colours


@pytest.mark.parametrize(("y", "x"), [(2, 13), (9, 4)])
def test_a_pointer_shows_the_map_of_its_position(made, page, visit, y, x):
    visited = opened(visit, page)
    visited.page.locator("#target").scroll_into_view_if_needed()
    box = visited.page.locator("#target").bounding_box()
    visited.page.mouse.move(box["x"] + (x + 0.5) * box["width"] / 16, box["y"] + (y + 0.5) * box["height"] / 16)
    assert f"x {x}, y {y}" in visited.page.text_content("#target-place")

    generator, _ = load_generator(made.run)
    latents, labels = latents_of(generator, 0, range(4))
    seen = look.maps(generator, (latents, labels), [(y, x)])
    image, found = to_bytes(seen.images)[0], drawn(visited.page, 0)
    layer = dict(generator.named_modules())[seen.layers[0].name]
    caught = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    with torch.no_grad():
        generator(latents, labels)
        hook.remove()
        heat = layer.weights(caught[0], torch.tensor([y // 2 * 8 + x // 2]))[0, 0, 0].numpy()
    at, colours = expected(image, heat)
    apart = np.abs(found[at][:, at] - colours).max(-1)
    framed = np.zeros_like(apart, bool)  # the frame of the asked cell lies over the edges of its own and of its neighbours
    inside = (np.abs(at[:, None] - (y // 2 + 0.5) * 32) < 20) & (np.abs(at[None] - (x // 2 + 0.5) * 32) < 20)
    framed |= inside
    assert apart[~framed].max() <= 4  # of 255: bytes of the map, and of the colours
    other = seen.layers[0].maps.new_tensor(heat).flip(0).numpy()
    assert np.abs(found[at][:, at] - expected(image, other)[1]).max() > 20  # another map would be seen
    assert visited.errors == []


def test_the_page_opens_from_the_disk_by_itself(page, visit):
    visited = opened(visit, page)
    visited.page.wait_for_timeout(200)
    assert visited.errors == []
    assert visited.requests == [page.as_uri()]
    assert visited.page.locator("#panels figure").count() == 2
    assert "generator 8 × 8" in visited.page.text_content("#panels")


def test_the_slider_moves_by_keys_and_by_film(page, visit):
    visited = opened(visit, page)
    image = visited.page.locator("#samples img")
    last = image.get_attribute("src")
    assert visited.page.text_content("#slider-step") == "200"
    visited.page.focus("#slider")
    visited.page.keyboard.press("Home")
    assert visited.page.text_content("#slider-step") == "0"
    assert image.get_attribute("src") != last
    visited.page.keyboard.press("ArrowRight")
    assert "step 50" in visited.page.text_content("#samples figcaption")
    visited.page.click("#play")
    visited.page.wait_for_selector("#slider-step:text-is('200')")
    assert image.get_attribute("src") == last
    visited.page.wait_for_selector("#play:text-is('Play')")


def test_keys_move_the_point_and_layers_can_be_left_out(page, visit):
    visited = opened(visit, page)
    before = drawn(visited.page, 0)
    visited.page.focus("#target")
    for _ in range(3):
        visited.page.keyboard.press("ArrowLeft")
    visited.page.keyboard.press("ArrowUp")
    assert "x 5, y 7" in visited.page.text_content("#target-place")
    assert np.abs(drawn(visited.page, 0) - before).max() > 20
    visited.page.click("#layers input >> nth=1")
    assert visited.page.locator("#panels figure:visible").count() == 1
    visited.page.click("#choices button >> nth=5")
    visited.page.wait_for_selector("#target-name:text-is('real image 1')")
    assert visited.page.get_attribute("#choices button >> nth=5", "aria-pressed") == "true"
    assert visited.page.locator("#panels figure:visible").count() == 0  # the discriminator stays left out


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1100])
def test_any_width_and_either_light(page, visit, dark, width):
    visited = opened(visit, page, dark=dark, width=width)
    assert visited.overflow() == 0
    names = ["h1", ".lead", "nav a", "dt", "dd", ".help", "summary", "figcaption", "button", "code", "td.soft", "nav a", "th"]
    for name in names:
        assert visited.contrast(name) >= 4.5, name
    ground = visited.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(", "))) < 200) == dark
    ink = visited.page.evaluate("getComputedStyle(document.querySelector('.chart text')).fill")
    assert (sum(map(int, ink[4:-1].split(", "))) > 400) == dark


def test_words_of_a_run_do_not_run(made, visit, tmp_path):
    hostile = "</script><img src=x onerror=alert(1)><script>alert(1)</script>"
    explorer.prepare(made.run)
    for name in ("run.json", "scores.json", "look/explorer.json"):
        file = made.run.folder / name
        text = file.read_text()
        for word in ("a machine", "a note of the score", "sample 0, cats", "discriminator"):
            text = text.replace(f'"{word}"', json.dumps(hostile))
        file.write_text(text)
    out = tmp_path / "page.html"
    write([made.run.folder], out, notes=[[hostile]])
    visited = opened(visit, out)
    said = []
    visited.page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    visited.page.wait_for_timeout(100)
    assert said == []
    assert visited.errors == []
    assert visited.requests == [out.as_uri()]
    assert visited.page.locator("img[onerror]").count() == 0
    assert visited.page.text_content("#choices button").endswith(hostile)


def test_paper_shows_what_is_folded(page, visit):
    visited = opened(visit, page)
    visited.page.emulate_media(media="print")
    visited.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert visited.page.locator("details:not([open])").count() == 0
    assert not visited.page.is_visible("nav")
    assert len(visited.page.pdf()) > 10_000
