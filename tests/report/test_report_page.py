"""The page: whole, small, and safe, whatever the run folders say."""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from reported import make_run, write_scores

from gander import explorer
from gander.errors import UserError
from gander.report import curves, page, write
from gander.report.curves import charted
from gander.report.gather import gather

HOSTILE = "</script><img src=x onerror=alert(1)>\"'{{ 7*7 }}"


class Read(HTMLParser):
    """The elements of a page with what stands in them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.headings, self.text, self.handlers, self.sources = [], [], [], "", [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        self.sources += [value for name, value in attributes if name in ("src", "href") and value]
        self.headings += [int(tag[1])] if tag in ("h1", "h2", "h3") else []

    def handle_data(self, data):
        self.text += data


def made_of(folders, tmp_path, **options):
    out = tmp_path / "page.html"
    size = write(folders, out, **options)
    text = out.read_text(encoding="utf-8")
    assert size == len(text.encode()) < page.LARGEST
    return text


def test_a_run_from_top_to_bottom(made, tmp_path):
    explorer.prepare(made.run)
    defaults = [{"width": 64, "batch": 4, "attention_at": (8,)}]
    text = made_of([made.run.folder], tmp_path, defaults=defaults)
    read = Read(text)
    assert {"run", "samples", "attention", "interpolation", "classes", "training", "scores", "exam"} <= set(read.ids)
    assert len(read.ids) == len(set(read.ids))
    assert read.headings[0] == 1
    assert all(b - a <= 1 for a, b in zip(read.headings, read.headings[1:], strict=False))
    for words in ("gander train sagan_official --data photos", "0.131 ± 0.017", "no near copies seen", "83.3% of 18 held-out"):
        assert words in read.text
    changed = re.search(r"Knobs that are not at their defaults</h3>.*?</table>", text, re.DOTALL)[0]
    assert re.findall(r'<th scope="row">(\w+)</th>', changed) == ["width"]


def test_nothing_is_asked_for_elsewhere(made, tmp_path):
    explorer.prepare(made.run)
    text = made_of([made.run.folder], tmp_path)
    assert set(re.findall(r"https?://[^\s\"'<]*", text)) <= {"http://www.w3.org/2000/svg"}
    assert all(source.startswith(("data:image/", "#")) for source in Read(text).sources)
    assert "url(" not in text
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy


def test_words_of_a_run_stay_words(made, tmp_path):
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    shutil.copytree(made.run.folder, folder)
    told = json.loads((folder / "run.json").read_text())
    told |= {"recipe": HOSTILE, "classes": [HOSTILE] * 3, "command": HOSTILE, "machine": HOSTILE, "device": HOSTILE}
    told |= {"knobs": {HOSTILE: HOSTILE}, "versions": {HOSTILE: HOSTILE}, "init": HOSTILE, "created": HOSTILE}
    told |= {"data": {"name": HOSTILE, "split": HOSTILE, "fingerprint": HOSTILE}}
    explorer.prepare(made.run)
    shutil.copytree(made.run.folder / "look", folder / "look")
    (folder / "run.json").write_text(json.dumps(told))
    with (folder / "log.jsonl").open("a") as file:
        for step in (210, 220):
            names = (HOSTILE, f"score/{HOSTILE}", f"gamma/{HOSTILE}", f"sigma/generator.{HOSTILE}", f"{HOSTILE}/a")
            file.write(json.dumps({"step": step, **dict.fromkeys(names, 0.5)}) + "\n")
    scores = json.loads((folder / "scores.json").read_text().replace("jackknife", "J").replace("no near copies seen", "M"))
    scores["scores"][0] |= {"name": HOSTILE, "card": {HOSTILE: HOSTILE}, "notes": [HOSTILE], "memorisation": HOSTILE}
    (folder / "scores.json").write_text(json.dumps(scores))
    exam = json.loads((folder / "exam.json").read_text())
    (folder / "exam.json").write_text(json.dumps(exam | {"classes": [HOSTILE] * 3, "split": HOSTILE}))
    seen = json.loads((folder / "look" / "explorer.json").read_text())
    seen["images"][0]["name"] = seen["images"][0]["networks"][0]["network"] = HOSTILE
    (folder / "look" / "explorer.json").write_text(json.dumps(seen))
    (folder / "predictions.csv").write_text(f'file,label,predicted,probability\n"{HOSTILE.replace(chr(34), "")}",a,b,0.5\n')
    for folders in ([folder], [folder, made.run.folder]):
        text = made_of(folders, tmp_path, notes=[[HOSTILE], [HOSTILE]])
        read = Read(text)
        assert read.tags.count("script") == 2
        assert read.handlers == []
        assert all(source.startswith(("data:image/", "#")) for source in read.sources)
        assert read.text.count(HOSTILE) > 10
        data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1]
        assert json.loads(data)["explored"][0]["images"][0]["name"].startswith("</script>")


def test_a_hundred_grids_of_noise_fit(bare, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (540, 540, 3), np.uint8)
    for step in range(100):
        Image.fromarray(np.roll(noise, step, 0)).save(bare.run.samples / f"{step + 1000:08d}.png", compress_level=1)
    text = made_of([bare.run.folder], tmp_path)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    steps = data["tracks"][0]["steps"]
    assert len(steps) == page.FRAMES == len(data["tracks"][0]["frames"]) + 1  # the last is in the page itself
    assert (steps[0], steps[-1]) == (0, 1099)


def test_the_parts_of_a_page_leave_room():
    files = (page.FRAMES_BYTES + page.PICTURES_BYTES) * 4 / 3
    assert files + page.MAPS_BYTES + curves.LARGEST < page.LARGEST - 300_000
    assert explorer.LARGEST <= page.MAPS_BYTES


def test_runs_side_by_side(made, bare, tmp_path):
    explorer.prepare(made.run)
    text = made_of([made.run.folder, bare.run.folder], tmp_path, notes=[[], ["bare has nothing to look at"]])
    differing = re.search(r"and in what the runs differ.*?</table>", text, re.DOTALL)[0]
    assert re.findall(r'<th scope="row">([\w ]+)</th>', differing) == [
        "attention",
        "attention at",
        "steps",
        "last scores",
        "time",
        "speed",
        "machine",
    ]
    assert "bare has nothing to look at" in text
    losses = next(group for group in charted([gather(made.run.folder), gather(bare.run.folder)]) if group.title == "Losses")
    assert len(losses.charts) == 2
    assert all(chart.svg.count("<polyline") == 2 and "a run" in chart.svg and "bare" in chart.svg for chart in losses.charts)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert [track["name"] for track in data["tracks"]] == ["a run", "bare"]


def test_facts_that_only_some_runs_have(made, bare, tmp_path):
    for run in (made.run, bare.run):
        run.log_file.write_text('{"step": 4, "twins/coherent": 0.5}\n' if run is made.run else "")
    text = made_of([made.run.folder, bare.run.folder], tmp_path)
    assert re.search(r"last scores</th><td>coherent 0.5</td><td>–</td>", text)
    assert '<th scope="row">time</th>' not in text


def test_runs_of_one_name_are_told_apart(tmp_path):
    folders = [make_run(tmp_path / side / "run", attention="none").run.folder for side in "ab"]
    assert "run (1), run (2)" in made_of(folders, tmp_path)


def test_maps_that_do_not_fit_are_left_out_and_said(made, bare, tmp_path, monkeypatch):
    explorer.prepare(made.run)
    monkeypatch.setattr(page, "MAPS_BYTES", 1000)
    text = made_of([made.run.folder], tmp_path)
    assert "too large to stand beside the others" in text
    assert 'id="attention"' not in text


def test_unequal_cards_are_not_to_be_compared(made, tmp_path):
    file = made.run.folder / "scores.json"
    told = json.loads(file.read_text())
    other = json.loads(json.dumps(told["scores"][0]))
    other["card"]["seed"], other["subject"]["step"] = 1, 100
    file.write_text(json.dumps({"scores": [told["scores"][0], other]}))
    assert "not made alike (seed)" in made_of([made.run.folder], tmp_path)
    write_scores(made.run)
    assert "not made alike" not in made_of([made.run.folder], tmp_path)


def test_a_command_of_python_is_put_into_words(made, photos):
    found = gather(made.run.folder)
    found.command = "gander /usr/bin/pytest"
    known = {**dict.fromkeys(found.knobs, "x")} | {
        name: value for name, value in found.knobs.items() if name not in ("width", "betas")
    }
    assert page._command(found, known) == f"gander train sagan_official --data {photos} --seed 0 --width 2 --betas 0.0 0.9"


def test_real_images_that_are_gone_are_said(made, photos, tmp_path):
    told = json.loads((made.run.folder / "run.json").read_text())
    (made.run.folder / "run.json").write_text(json.dumps(told | {"data": {"name": "gone", "where": "nowhere/gone"}}))
    explorer.prepare(type(made.run).open(made.run.folder))
    text = made_of([made.run.folder], tmp_path)
    assert "no look at real images: " in text
    assert "sample 3, cats" in text
    assert "real image 0" not in text
    assert [file.name for file in explorer.prepare(made.run, data=str(photos))[0]] == ["explorer.json"]
    assert "real image 0" in made_of([made.run.folder], tmp_path)


def test_too_many_runs(made, tmp_path):
    with pytest.raises(UserError, match="13 runs are too many for a page; name 12 or fewer"):
        write([made.run.folder] * 13, tmp_path / "page.html")


def test_no_number_of_the_log_is_lost_or_drawn_twice(made):
    made.run.log({"step": 210, "strange": 1, "twins/valid": 0.5, "variety/fake": 0.1, "exam/top-1 accuracy": 0.5})
    made.run.log({"step": 220, "strange": 1, "twins/valid": 0.5, "variety/fake": 0.1, "exam/top-1 accuracy": 0.5})
    found = gather(made.run.folder)
    shown = [chart for group in charted([found]) for chart in group.charts]
    sigmas = [name for name in found.series if name.startswith("sigma/")]
    others = [name for name in found.series if not name.endswith(" error") and name not in sigmas]
    assert sum(chart.svg.count("<polyline") for chart in shown) == len(others) + 6
    assert any(chart.says == "The 6 of 9 that changed most; the others ended between 1.00 and 1.40." for chart in shown)
    bands = [chart for chart in shown if "<polygon" in chart.svg]
    assert len(bands) == 1
    assert "Fréchet" in bands[0].svg
    for chart in shown:  # a title, and a name with its unit on both axes
        assert len(re.findall(r"<text[^>]*>(?:step|epoch)</text>", chart.svg)) == 1
        assert re.search(r"no unit|share|lower is better|half of black|images a second|rate", chart.svg)
