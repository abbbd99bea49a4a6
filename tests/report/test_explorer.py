"""What is prepared for a report: maps that are those of the layers, in a file that is never too large."""

import base64
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gander import explorer, look
from gander.attention import MultiHeadAttention, build
from gander.errors import UserError
from gander.report import looked
from gander.sampling import load_generator
from gander.train import checkpoint
from gander.train.samples import latents_of


def unpacked(layer):
    """(heads, q, h_k, w_k), as near as bytes can be."""
    h, w = layer["keys"]
    levels = np.frombuffer(base64.b64decode(layer["maps"]), np.uint8).astype(float).reshape(-1, h, w)
    levels = (levels - 128) / 127 if layer["kind"] == "signed" else levels / 255
    return (levels * np.array(layer["peaks"])[:, None, None]).reshape(len(layer["heads"]), -1, h, w)


def test_the_maps_are_those_of_the_layer(made):
    explorer.explore(made.run)
    told = looked.read(made.run.folder)
    assert [image["name"] for image in told["images"]] == [
        "sample 0, cats", "sample 1, dogs", "sample 2, fish", "sample 3, cats", "real image 0", "real image 1", "real image 2",
        "real image 3",
    ]  # fmt: skip
    assert [n["network"] for n in told["images"][1]["networks"]] == ["generator_ema", "discriminator"]
    assert [n["network"] for n in told["images"][5]["networks"]] == ["discriminator"]
    layer = told["images"][1]["networks"][0]["layers"][0]
    assert (layer["rows"], layer["columns"], layer["size"], layer["heads"]) == (list(range(8)), list(range(8)), [8, 8], [""])

    generator, _ = load_generator(made.run)
    positions = [(2 * y, 2 * x) for y in range(8) for x in range(8)]
    seen = look.maps(generator, latents_of(generator, 0, range(4)), positions)
    true = seen.layers[0].maps[1].double().numpy()
    found = unpacked(layer)
    half = true.max((2, 3), keepdims=True) / 510
    assert (np.abs(found - true) <= half * 1.01 + 1e-9).all()
    assert true.std() > 0.01  # not all alike
    assert layer["gamma"] == 0.5
    assert layer["entropy"] == pytest.approx(seen.layers[0].entropy[1, 0].tolist(), abs=1e-3)
    assert layer["distance"] == pytest.approx(seen.layers[0].distance[1, 0].tolist(), rel=1e-2)


def packed(layer, cells=4, heads=4):
    torch.manual_seed(0)
    model = nn.Sequential(build(layer, 16, size=(8, 8)) if isinstance(layer, str) else layer)
    seen = look.maps(model, torch.randn(2, 16, 8, 8), [(y, x) for y in range(8) for x in range(8)])
    return seen.layers[0], explorer._packed(seen.layers[0], 1, cells, 8, heads)


def test_the_asked_cells_are_named():
    seen, told = packed("full", cells=4)
    assert told["rows"] == told["columns"] == [1, 3, 5, 7]
    chosen = [8 * row + column for row in told["rows"] for column in told["columns"]]
    assert unpacked(told) == pytest.approx(seen.maps[1, :, chosen].numpy(), abs=float(seen.maps.max()) / 500)


def test_signed_maps_keep_their_sign():
    seen, told = packed("simple", cells=8)
    assert told["kind"] == "signed"
    assert unpacked(told)[0] == pytest.approx(seen.maps[1, 0].numpy(), abs=float(seen.maps.abs().max()) / 250)
    assert (unpacked(told) < 0).any()


def test_gates_have_their_own_form():
    channels, told = packed("feature")
    assert told["shares"] == pytest.approx(channels.maps[1].flatten().tolist(), rel=1e-3)
    positions, told = packed("gate", cells=8)
    assert unpacked(told)[0, 0] == pytest.approx(positions.maps[1].mean(0).numpy(), rel=0.01)


def test_heads_come_together_and_one_by_one_where_they_are_few():
    seen, told = packed(MultiHeadAttention(16, heads=4), cells=8)
    heads = 4
    assert told["heads"] == [f"mean of {heads} heads", *(f"head {i + 1}" for i in range(heads))]
    maps = unpacked(told)
    assert maps[0] == pytest.approx(seen.maps[1].mean(0).numpy(), abs=0.004)
    assert maps[1:] == pytest.approx(seen.maps[1].numpy(), abs=0.004)
    assert packed(MultiHeadAttention(16, heads=4), heads=1)[1]["heads"] == [f"mean of {heads} heads"]


@pytest.mark.parametrize("side", [64, 48])
def test_nothing_of_a_map_is_lost_where_cells_are_added_up(side):
    maps = torch.rand(1, 5, side, side)
    maps /= maps.sum((2, 3), keepdim=True)
    told = explorer._bytes(maps, 16, False)
    assert told["keys"] == [16, 16]
    found = unpacked({**told, "kind": "rows", "heads": [""]})
    assert found.sum((2, 3)) == pytest.approx(np.ones((1, 5)), abs=0.01)


def test_the_file_keeps_to_its_budget(made, monkeypatch):
    whole = explorer.explore(made.run).stat().st_size
    monkeypatch.setattr(explorer, "LARGEST", whole // 2)
    smaller = explorer.explore(made.run)
    assert smaller.stat().st_size <= whole // 2
    assert len(looked.read(made.run.folder)["images"]) >= 2
    monkeypatch.setattr(explorer, "LARGEST", 1000)
    with pytest.raises(UserError, match="too many attention layers for a page"):
        explorer.explore(made.run)


def test_the_largest_budget_fits_the_page():
    assert explorer.LARGEST < looked.MOST_BYTES
    assert explorer.LEVELS[0][:2] == (16, 32)


def test_what_is_there_is_not_made_again(made):
    files, notes = explorer.prepare(made.run)
    assert [file.name for file in files] == ["explorer.json", "classes-step200.png", "interpolation-step200.png"]
    assert notes == []
    assert explorer.prepare(made.run) == ([], [])
    checkpoint.save(made.run.checkpoints, 300, made.networks, {})
    assert "interpolation-step300.png" in [file.name for file in explorer.prepare(made.run)[0]]
    assert looked.read(made.run.folder)["step"] == 300
    (made.run.folder / "look" / "explorer.json").write_text("[")
    assert [file.name for file in explorer.prepare(made.run)[0]] == ["explorer.json"]


def test_the_class_grid_has_a_row_for_each_class(made):
    explorer.pictures(made.run)
    with Image.open(made.run.folder / "look" / "classes-step200.png") as image:
        assert image.size == (8 * 18 - 2, 3 * 18 - 2)
    with Image.open(made.run.folder / "look" / "interpolation-step200.png") as image:
        assert image.size == (9 * 18 - 2, 6 * 18 - 2)


def test_a_run_without_attention_says_so_and_shows_the_rest(bare):
    files, notes = explorer.prepare(bare.run)
    assert [file.name for file in files] == ["classes-step100.png", "interpolation-step100.png"]
    assert len(notes) == 1
    assert "no attention layers to look at" in notes[0]


def test_a_run_of_ones_own_recipe_names_it(made):
    described = json.loads((made.run.folder / "run.json").read_text())
    (made.run.folder / "run.json").write_text(json.dumps({**described, "recipe": "mine.py"}))
    files, notes = explorer.prepare(type(made.run).open(made.run.folder))
    assert files == []
    assert "name it again: --recipe ./mine.py" in notes[0]


def test_a_run_without_checkpoints_says_so(made):
    shutil.rmtree(made.run.checkpoints)
    assert explorer.prepare(made.run)[0] == []


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.update(images=3),
        lambda told: told["images"][0].update(image="https://example.org/x.png"),
        lambda told: told["images"][0].update(type="svg+xml"),
        lambda told: told["images"][0]["networks"][0]["layers"][0].update(maps="AAAA"),
        lambda told: told["images"][0]["networks"][0]["layers"][0].update(size=[0, 8]),
        lambda told: told["images"][0]["networks"][0]["layers"][0].update(peaks=[1, "2"]),
        lambda told: told["images"][0]["networks"][0]["layers"][0].update(kind="<b>"),
    ],
)
def test_a_file_that_is_no_such_file_is_refused(made, change):
    file = explorer.explore(made.run)
    told = json.loads(file.read_text())
    change(told)
    file.write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"explorer.json is damaged .*; delete it to have it made again"):
        looked.read(made.run.folder)
