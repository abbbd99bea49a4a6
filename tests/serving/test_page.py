"""The live page in a real browser: what is chosen is shown, pointing shows the right maps, and two people do not mix."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from sites import make_run, served

from gander import figures
from gander.serving import Networks, networks

pytest_plugins = "browser"


def shown(visit, count=32):
    """The base64 PNGs of the gallery, once it has so many and is at rest."""
    visit.page.wait_for_function(
        "n => document.querySelectorAll('#gallery:not(.busy) img').length === n", arg=count, timeout=20_000
    )
    sources = visit.page.eval_on_selector_all("#gallery img", "images => images.map(image => image.src)")
    return [source.removeprefix("data:image/png;base64,") for source in sources]


def samples(site, words):
    return [image["png"] for image in json.loads(site.ask(f"/api/samples?{words}").body)["images"]]


def until(visit, script, arg=None):
    visit.page.wait_for_function(script, arg=arg, timeout=20_000)


def at_rest(visit):
    """Wait until the page has asked for nothing for half a second: what it asks for at its start comes late on a busy machine."""
    count = -1
    while count != len(visit.requests):
        count = len(visit.requests)
        visit.page.wait_for_timeout(500)


def picture(visit, selector):
    """The pixels of an <img>, (h, w, 3)."""
    until(visit, "selector => document.querySelector(selector).complete", selector)
    data = visit.page.evaluate(
        """async selector => {
            const image = document.querySelector(selector), canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL("image/png");
        }""",
        selector,
    )
    with Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGB"))


def pixels(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def is_between(visit, site, words):
    """The middle image becomes the one that is asked for with these words."""
    expected = pixels(site.ask(f"/api/between.png?{words}").body)
    for _ in range(100):
        if visit.page.get_attribute("#middle", "src") and np.array_equal(picture(visit, "#middle"), expected):
            return True
        visit.page.wait_for_timeout(100)
    return False


def clean(visit, site):
    assert visit.errors == []
    assert {request.split("/")[2] for request in visit.requests} == {f"127.0.0.1:{site.server.port}"}


def test_the_page_shows_the_samples_that_are_chosen(site, visit):
    one = visit(site.url)
    assert shown(one) == samples(site, "seed=0&count=32")
    assert one.page.title() == "a run · gander"
    assert "sagan_official" in one.page.inner_text("#facts")
    one.page.fill("#seed", "7")
    one.page.select_option("#label", "<b>&é")
    one.page.select_option("#count", "8")
    shown(one, 8)
    until(one, "() => document.querySelector('#range').textContent === '0 to 7'")
    one.page.click("#later")
    until(one, "() => document.querySelector('#range').textContent === '8 to 15'")
    assert shown(one, 8) == samples(site, "seed=7&label=2&count=8&start=8")
    with one.page.expect_download() as download:
        one.page.click("#zip")
    assert download.value.suggested_filename == "a-run-step2-seed7.zip"
    again = visit(one.page.url)  # the address keeps what is chosen
    assert shown(again, 8) == shown(one, 8)
    assert again.page.input_value("#label") == "<b>&é"
    clean(one, site)


def test_truncation_reaches_the_images(site, visit):
    one = visit(site.url)
    shown(one)
    one.page.evaluate("document.querySelector('#truncation').value = 0.5")
    one.page.dispatch_event("#truncation", "input")
    assert one.page.inner_text("#truncation-value") == "0.5"
    expected = samples(site, "count=32&truncation=0.5")
    until(one, "src => document.querySelector('#gallery img')?.src.endsWith(src)", expected[0])
    assert shown(one) == expected
    clean(one, site)


def test_sliders_and_dragging_move_the_image_between_four(site, visit):
    one = visit(site.url)
    shown(one)
    one.page.wait_for_selector("#panels span:not(:empty)")  # nothing moves any more
    assert is_between(one, site, "x=0.5&y=0.5")
    one.page.focus("#x")
    one.page.keyboard.press("End")
    assert is_between(one, site, "x=1&y=0.5")
    pad = one.page.locator("#pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    one.page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.5 * box["height"])
    one.page.mouse.down()
    for share in (0.6, 0.4, 0.3, 0.25):
        one.page.mouse.move(box["x"] + share * box["width"], box["y"] + 0.75 * box["height"])
    one.page.mouse.up()
    x, y = (float(one.page.input_value(name)) for name in ("#x", "#y"))
    assert (x, y) == pytest.approx((0.25, 0.75), abs=0.02)
    place = dict(pair.split("=") for pair in one.page.url.partition("#")[2].split("&"))
    assert is_between(one, site, f"x={place['x']}&y={place['y']}")
    one.page.locator(".corner").first.fill("11")
    assert is_between(one, site, f"x={place['x']}&y={place['y']}&corners=11,1,2,3")
    clean(one, site)


def looked(visit, number):
    """(title, words, pixels of the canvas) of a panel of the explorer."""
    panel = visit.page.locator("#panels figure").nth(number)
    data = panel.locator("canvas").evaluate("canvas => canvas.toDataURL()")
    with Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))) as image:
        return panel.locator("strong").inner_text(), panel.locator("span").inner_text(), np.asarray(image.convert("RGB"))


def agrees(visit, site, words, y, x, cell=8):
    """Every panel is, in the middles of its cells, the picture that `gander.figures` draws of the layer's own weights."""
    answer = json.loads(site.ask(f"/api/look?{words}&y={y}&x={x}").body)
    image = pixels(base64.b64decode(answer["image"]))
    layers = [(network["network"], layer) for network in answer["networks"] for layer in network["layers"]]
    assert visit.page.locator("#panels figure").count() == len(layers)
    for number, (network, layer) in enumerate(layers):
        title, said, found = looked(visit, number)
        assert title == f"{network}, {' × '.join(map(str, layer['size']))}"
        heat = np.frombuffer(base64.b64decode(layer["maps"]), np.uint8).reshape(layer["keys"]) / 255
        expected = figures.overlay(image, heat)
        side, drawn = len(expected), len(found)
        middles = [(i + 0.3) / 16 for i in range(16)]
        mine = found[[int(m * drawn) for m in middles]][:, [int(m * drawn) for m in middles]].astype(int)
        theirs = expected[[int(m * side) for m in middles]][:, [int(m * side) for m in middles]].astype(int)
        h, w = layer["size"]
        outside = np.ones((16, 16), bool)  # of the frame around the cell that looks
        top, left = y * h // 16 * (16 // h), x * w // 16 * (16 // w)
        outside[max(0, top - 1) : top + 16 // h + 1, max(0, left - 1) : left + 16 // w + 1] = False
        assert abs(mine - theirs)[outside].max() <= 4
        assert f"{layer['peaks'][0] * heat.size:#.3g}".rstrip(".") in said


def point(visit, y, x):
    visit.page.locator("#target").scroll_into_view_if_needed()
    box = visit.page.locator("#target").bounding_box()
    visit.page.mouse.move(box["x"] + (x + 0.5) / 16 * box["width"], box["y"] + (y + 0.5) / 16 * box["height"])
    until(visit, "words => document.querySelector('#target-place').textContent === words", f"x {x}, y {y}")


def test_pointing_shows_where_each_layer_looks_from_there(site, visit):
    one = visit(site.url)
    shown(one)
    one.page.click("#gallery button[data-index='4']")
    until(one, "() => document.querySelector('#target-name').textContent === 'sample 4, dogs'")
    at_rest(one)
    asked = len(one.requests)
    for y, x in ((2, 3), (13, 9), (0, 15)):
        point(one, y, x)
        agrees(one, site, "index=4", y, x)
    assert len(one.requests) == asked  # nobody was asked
    one.page.focus("#target")
    one.page.keyboard.press("ArrowDown")
    one.page.keyboard.press("ArrowLeft")
    until(one, "() => document.querySelector('#target-place').textContent === 'x 14, y 1'")
    agrees(one, site, "index=4", 1, 14)
    clean(one, site)


def test_layers_too_large_to_be_sent_whole_are_asked_as_one_points(tmp_path, visit, monkeypatch):
    monkeypatch.setattr(networks, "MAPS", 1)
    run = make_run(tmp_path / "run", attention="full", attention_at=(8,), classes=[])
    with served(Networks(run, standing=0)) as site:
        one = visit(site.url)
        shown(one)
        for y, x in ((2, 3), (14, 9)):
            point(one, y, x)
            peaks = [n["layers"][0] for n in json.loads(site.ask(f"/api/look?y={y}&x={x}").body)["networks"]]
            words = f"{peaks[1]['peaks'][0] * 64:#.3g}".rstrip(".")
            until(one, "words => document.querySelectorAll('#panels span')[1]?.textContent.includes(words)", words)
            agrees(one, site, "index=0", y, x)
        clean(one, site)


def test_two_people_do_not_mix(site, visit):
    one, two = visit(site.url + "#seed=1"), visit(site.url + "#seed=2&count=16")
    assert shown(one) == samples(site, "seed=1&count=32")
    assert shown(two, 16) == samples(site, "seed=2&count=16")
    one.page.fill("#seed", "11")
    two.page.fill("#seed", "12")
    for person, seed, count in ((one, 11, 32), (two, 12, 16)):
        expected = samples(site, f"seed={seed}&count={count}")
        until(person, "src => document.querySelector('#gallery img').src.endsWith(src)", expected[0])
        assert shown(person, count) == expected
        assert is_between(person, site, f"seed={seed}")
        clean(person, site)


def test_a_mistake_is_said_on_the_page_and_goes_when_it_is_mended(site, visit):
    one = visit(site.url)
    shown(one)
    one.page.fill("#seed", "minus one")
    until(one, "() => /seed 'minus one' is not a whole number from 0/.test(document.querySelector('[role=alert]').textContent)")
    assert one.page.is_visible("[role=alert]")
    one.page.fill("#seed", "1")
    until(one, "() => document.querySelector('[role=alert]').hidden")
    assert all("400" in error for error in one.errors)


def test_an_image_of_ones_own(site, visit, tmp_path):
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    one = visit(site.url)
    shown(one)
    one.page.set_input_files("#own", tmp_path / "stripes.png")
    until(one, "() => document.querySelector('#target-name').textContent === 'stripes.png'")
    assert one.page.locator("#panels strong").all_inner_texts() == ["discriminator, 8 × 8"]
    (tmp_path / "words.png").write_text("no image")
    one.page.set_input_files("#own", tmp_path / "words.png")
    until(one, "() => /the file is not an image/.test(document.querySelector('[role=alert]').textContent)")


def test_what_a_run_lacks_is_said_and_the_rest_is_there(tmp_path, visit):
    with served(Networks(make_run(tmp_path / "a", "dcgan", classes=[]), standing=0)) as site:
        one = visit(site.url)
        shown(one)
        assert "This run has no attention layers to look into" in one.page.inner_text("#notes")
        assert not one.page.is_visible("#explorer")
        assert not one.page.is_visible("#label")
        clean(one, site)
    with served(Networks(make_run(tmp_path / "b", "autoencoder", classes=[], attention="self"))) as site:
        one = visit(site.url)
        until(one, "() => !document.querySelector('#notes').hidden")
        assert one.page.inner_text("#notes") == "This run has no generator, so there is nothing to sample."
        assert not one.page.is_visible("#samples")
        Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(tmp_path / "grey.png")
        one.page.set_input_files("#own", tmp_path / "grey.png")
        until(one, "() => document.querySelectorAll('#panels figure').length === 2")
        assert one.page.is_visible("#reading img")
        clean(one, site)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 375, 1100])
def test_it_fits_and_can_be_read(width, dark, site, visit):
    one = visit(site.url, width=width, dark=dark)
    shown(one)
    assert one.overflow() == 0
    for selector in ("h1", "#facts", "h2", "#seed", "#new-seed", "#label", "label", ".help", "#zip", "figcaption", "footer p"):
        assert one.contrast(selector) >= 4.5, selector
    ground = one.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) == dark


def test_every_control_has_a_name_and_can_be_reached_by_keys(site, visit):
    one = visit(site.url)
    shown(one)
    nameless = one.page.evaluate(
        """() => [...document.querySelectorAll("input, select, button, a[href], [tabindex]")]
            .filter(e => !e.labels?.length && !e.textContent.trim() && !e.getAttribute("aria-label")).map(e => e.outerHTML)"""
    )
    assert nameless == []
    assert one.page.locator("#gallery [tabindex='0']").count() == 1
    one.page.focus("#gallery [tabindex='0']")
    for key in ("ArrowRight", "ArrowDown", "Enter"):
        one.page.keyboard.press(key)
    until(one, "() => /^sample 9,/.test(document.querySelector('#target-name').textContent)")
    clean(one, site)
