"""Cards, scores.json, and the table that ranks what was made alike."""

import math
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from gander.errors import UserError
from gander.scoring.card import Card, Result, Score, best_of_training, differences, keep, keep_protocol, read
from gander.scoring.table import sheet, table

CARD = Card("random-conv", "174f", "none", "photos", "train", "abcd", 500, 600, 32, 3, "Lanczos", 100, None, "ema", 8, None, 0)


def result(name, value, error=0.1, card=CARD, **subject):
    scores = [
        Score("Fréchet[random-conv]", value, error, "jackknife", "lower"),
        Score("recall[random-conv]", 0.5, 0.01, "binomial", "higher"),
    ]
    return Result(name, {"run": name, **subject}, card, scores, [], {}, "not judged")


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (12.3456, 0.21, "12.35 ± 0.21"),
        (12.3456, 2.1, "12.3 ± 2.1"),
        (1234.5, 210.0, "1234 ± 210"),
        (0.00011, 0.000045, "0.000110 ± 0.000045"),
        (0.5, math.nan, "0.5"),
        (0.0, 0.0, "0"),
    ],
)
def test_a_value_has_the_digits_that_its_error_leaves(value, error, words):
    assert Score("a", value, error, "", "lower").worded() == words


def test_differences():
    assert differences([CARD, CARD]) == {}
    assert differences([CARD, replace(CARD, samples=7, truncation=0.5)]) == {"samples": [100, 7], "truncation": [None, 0.5]}


def test_equal_cards_are_ranked():
    lines = "\n".join(table([result("b", 3.0), result("a", 1.0)]))
    assert "by Fréchet[random-conv], lower is better: a < b" in lines
    assert "no difference" not in lines
    assert "3.00 ± 0.10" in lines


def test_what_the_errors_cannot_tell_apart_is_said():
    lines = "\n".join(table([result("b", 1.2), result("a", 1.0), result("c", 9.0)]))
    assert "a < b < c" in lines
    assert "no difference seen between a and b: 0.2, less than twice its error 0.14" in lines
    assert "between b and c" not in lines


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("weights", "5"), ("reference_hash", "5"), ("samples", 7), ("truncation", 0.5), ("seed", 7), ("generator", "live")),
        *(("resolution", 64), ("resize", "clean"), ("standing", 0), ("filter", "nearest"), ("reference_images", 3)),
        *(("channels", 1), ("labels", "in turn")),
    ],
)
def test_unequal_cards_are_not_ranked_and_it_is_said_why(field, value):
    lines = "\n".join(table([result("b", 3.0), result("a", 1.0, card=replace(CARD, **{field: value}))]))
    assert "<" not in lines
    assert f"not ranked, since these scores were not made alike: {field} " in lines


def test_what_a_reference_is_called_does_not_matter():
    assert differences([CARD, replace(CARD, reference="a copy of it")]) == {}


def test_what_strangers_wrote_cannot_draw_on_the_screen():
    strange = replace(CARD, reference="x\x1b[2J\n  FID  1.0")
    assert not any("\x1b" in line or "\n" in line for line in sheet(result("a\n\x1b", 1.0, card=strange)))
    assert not any("\x1b" in line or "\n" in line for line in table([result("a\n\x1b", 1.0), result("b", 2.0)]))


def written_by_one_of_many(folder, number):
    for step in range(5):
        keep(Path(folder) / "scores.json", [result("a", 1.0, step=5 * number + step)])


def test_many_that_write_at_once_lose_nothing(tmp_path):
    writers = [multiprocessing.get_context("fork").Process(target=written_by_one_of_many, args=(tmp_path, i)) for i in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(entry["subject"]["step"] for entry in read(tmp_path / "scores.json")["scores"]) == list(range(15))


def test_the_best_of_a_training_is_known_by_its_first_score(tmp_path):
    assert best_of_training(tmp_path / "scores.json") == ""
    keep_protocol(tmp_path / "scores.json", CARD, ["score/a", "score/b"])
    assert best_of_training(tmp_path / "scores.json") == "score/a"


def test_the_floor_is_no_rival():
    """Real images stand in the table, but are ranked with nobody."""
    floor = result("real images", 0.1, card=replace(CARD, generator=None, seed=None, standing=None))._replace(real=True)
    lines = "\n".join(table([result("a", 1.0), floor]))
    assert "real images" in lines
    assert "ranked" not in lines
    assert "a < b" in "\n".join(table([result("a", 1.0), floor, result("b", 3.0), floor]))


def test_a_sheet_tells_the_card():
    lines = "\n".join(sheet(result("a", 1.0)))
    for word in (
        "random-conv 174f",
        "photos, train: 500 of 600 images abcd",
        "32 px",
        "100: ema, seed 0, no truncation",
        "over 8 × 64",
    ):
        assert word in lines


def test_scores_are_kept_and_those_of_the_same_replaced(tmp_path):
    file = tmp_path / "scores.json"
    keep_protocol(file, CARD, ["score/a"])
    keep(file, [result("a", 1.0, step=5), result("a", 2.0, step=6)])
    keep(file, [result("a", 3.0, error=math.nan, step=5), result("a", 4.0, card=replace(CARD, seed=1), step=5)])
    found = read(file)
    assert [(e["subject"]["step"], e["card"]["seed"], e["scores"][0]["value"]) for e in found["scores"]] == [
        (6, 0, 2.0),
        (5, 0, 3.0),
        (5, 1, 4.0),
    ]
    assert found["scores"][1]["scores"][0]["error"] is None  # JSON has no NaN
    assert found["training"]["card"]["samples"] == 100
    assert Card(**found["scores"][0]["card"]) == CARD


@pytest.mark.parametrize("text", ["[1]", '{"scores": 3}', '{"scores": [3]}', "{"])
def test_another_file_is_not_overwritten(tmp_path, text):
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(UserError):
        keep(tmp_path / "scores.json", [result("a", 1.0)])
    assert (tmp_path / "scores.json").read_text() == text
