"""What is read of a run folder, and what is made of one that is damaged."""

import json
import os

import pytest

from gander.errors import UserError
from gander.report.gather import gather, plus_minus, words
from gander.report.pictures import opened


def test_all_that_a_run_holds(made):
    found = gather(made.run.folder)
    assert (found.name, found.recipe, found.data, found.steps, found.step) == ("a run", "sagan_official", "photos", 200, 200)
    assert found.state == "finished, 200 steps"
    assert found.seconds == 190
    assert found.knobs["attention_at"] == "8"
    assert found.series["generator_loss"][:2] == [(10, 2 - 0.02), (20, 2 - 0.04)]
    assert list(found.grids) == [0, 50, 100, 150, 200]
    assert found.entries[0].scores == {"Fréchet[random-conv]": ("0.131 ± 0.017", "lower", "jackknife")}
    assert found.entries[0].card["features"] == "random-conv"
    assert found.protocol["samples"] == "64"
    assert found.exam.counts == [[5, 1, 0], [0, 6, 0], [2, 0, 4]]
    assert found.notes == []
    assert found.facts["last scores"] == "Fréchet[random-conv] 0.00500 ± 0.00050"


def test_a_run_that_still_trains(bare):
    assert gather(bare.run.folder).state == "step 100 of 200: stopped, or still training"


def test_pauses_are_no_training(bare):
    bare.run.log({"step": 110, "time": 2e9})
    bare.run.log({"step": 120, "time": 2e9 + 10})
    assert gather(bare.run.folder).seconds == 100


def test_a_torn_last_line_is_passed_over(bare):
    with bare.run.log_file.open("ab") as file:
        file.write(b'{"step": 110, "generator_l')
    found = gather(bare.run.folder)
    assert (found.step, found.notes) == (100, [])


def test_a_broken_line_is_said_and_what_came_before_is_shown(bare):
    with bare.run.log_file.open("ab") as file:
        file.write(b'nonsense\n{"step": 110}\n')
    found = gather(bare.run.folder)
    assert found.step == 100
    assert "line 13 is not JSON" in found.notes[0]


def test_what_is_no_finite_number_is_no_point(bare):
    odd = f'"a": NaN, "b": "1", "c": true, "d": [1], "e": 1e999, "g": 1e101, "h": {-(10**120)}'
    with bare.run.log_file.open("a") as file:
        file.write(f'{{"step": 110, {odd}, "f": 2}}\n{{"step": "x", "f": 3}}\n{{"f": 4}}\n')
    found = gather(bare.run.folder)
    assert found.series["f"] == [(110, 2)]
    assert not found.series.keys() & set("abcdegh")


@pytest.mark.parametrize("text", ["[", "[]", '{"scores": 3}', '{"scores": [{"scores": [{"value": "x"}]}]}'])
def test_odd_scores_leave_the_rest(made, text):
    (made.run.folder / "scores.json").write_text(text)
    found = gather(made.run.folder)
    assert not any(entry.scores for entry in found.entries)
    assert found.exam


@pytest.mark.parametrize("change", [{"counts": [[1, 2]]}, {"classes": ["a"]}, {"counts": [[1, 2, 3]] * 2 + [[1, 2, "3"]]}])
def test_a_table_that_is_not_square_is_not_shown(made, change):
    file = made.run.folder / "exam.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    found = gather(made.run.folder)
    assert found.exam is None
    assert "so none is shown" in found.notes[0]


def test_the_mistakes_made_with_most_confidence_come_first(made):
    rows = ["file,label,predicted,probability", "a.png,cats,dogs,0.7", "b.png,cats,cats,0.99", "c.png,dogs,cats,0.9", "d.png,x,y,z"]
    (made.run.folder / "predictions.csv").write_text("\n".join(rows) + "\n")
    assert [row["file"] for row in gather(made.run.folder).mistakes] == ["c.png", "a.png"]


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_links_are_not_followed(made, tmp_path):
    secret = tmp_path / "secret.png"
    os.replace(made.run.samples / "00000050.png", secret)
    (made.run.samples / "00000050.png").symlink_to(secret)
    os.replace(made.run.folder / "scores.json", tmp_path / "secret.json")
    (made.run.folder / "scores.json").symlink_to(tmp_path / "secret.json")
    found = gather(made.run.folder)
    assert 50 not in found.grids
    assert found.entries == []
    assert opened(made.run.samples / "00000050.png") is None
    (made.run.folder / "report.html").symlink_to(secret)
    with pytest.raises(UserError, match="is a link"):
        gather(made.run.folder)


def test_a_long_log_is_thinned_but_keeps_its_ends(bare, monkeypatch):
    monkeypatch.setattr("gander.report.gather.MOST_POINTS", 8)
    points = gather(bare.run.folder).series["generator_loss"]
    assert len(points) < 8
    assert [step for step, _ in points] == sorted({step for step, _ in points})
    assert points[0][0] == 10
    assert points[-1][0] == 100


def test_a_classifier_takes_the_steps_of_its_epochs(bare):
    file = bare.run.folder / "run.json"
    told = json.loads(file.read_text())
    told["knobs"] |= {"steps": None, "epochs": 34}
    file.write_text(json.dumps(told))
    assert gather(bare.run.folder).state == "step 100 of 102: stopped, or still training"  # 12 images in batches of 4


def test_words_are_bounded():
    assert words("x" * 1000) == "x" * 399 + "…"
    assert words([0.0, 0.9]) == "0.0 0.9"
    assert words("a\ud800\u202eb\n") == "a\\ud800\\u202eb\\n"  # what no page can hold, or turns its words round
    assert [words(value) for value in (None, True, False, 3)] == ["none", "yes", "no", "3"]
    assert len(words([["x" * 1000] * 1000] * 1000)) <= 400


def test_errors_say_how_many_digits_count():
    assert plus_minus(0.13130, 0.01734) == "0.131 ± 0.017"
    assert plus_minus(123.4, 20.0) == "123 ± 20"
    assert plus_minus(0.5, None) == "0.5"
