"""From the runs of study.json to a table and a sentence."""

import json
import re

import pytest

from gander.study import verdict
from gander.study.outcome import Outcome
from gander.study.page import page
from gander.study.statistics import difference

ACCURACY = Outcome("exam/top-1 accuracy", "higher", 100.0, "points")
FRECHET = Outcome("score/Fréchet[random-conv]", "lower")


def study(values, outcome=ACCURACY, *, exams=1, more=()):
    """study.json of these outcomes by arm, seed by seed; None is a failed run, "" one that is to be made."""
    runs = []
    for arm, each in values.items():
        for seed, value in enumerate(each):
            run = {"arm": arm, "seed": seed, "folder": f"runs/{arm}-seed{seed}", "state": "finished", "died": 0, "exams": exams}
            if value is None:
                run |= {"state": "failed", "why": "step 3: the loss is nan"}
            elif value == "":
                run |= {"state": "waiting"}
            else:
                run |= {"last": value, "best": value + 0.01, "seconds_a_step": 0.5, "seconds": 40.0}
            runs.append(run)
    arms = [{"name": arm, "folder": arm, "knobs": {}, "steps": 1000, "parameters": 12_345, "images": 8} for arm in values]
    plan = {"recipe": "imagewoof", "data": "dogs", "vary": {"attention": list(values)}, "equal": "steps"}
    made = {"command": "gander compare", "versions": {"gander": "0"}, "machine": "m", "created": "now", "asked": [5], **dict(more)}
    return {"plan": plan, "arms": arms, "runs": runs, "outcome": outcome._asdict(), **made}


def judged(values, outcome=ACCURACY, **options):
    seeds = [s for s in range(len(next(iter(values.values())))) if all(each[s] != "" for each in values.values())]
    return verdict.judge(study(values, outcome, **options), seeds)


NONE = [0.60, 0.62, 0.61, 0.63, 0.59]


def test_a_difference_is_said_in_points_with_its_interval():
    result = judged({"none": NONE, "simple": [0.62, 0.65, 0.63, 0.64, 0.62]})
    (apart,) = result["differences"]
    assert apart["mean"] == pytest.approx(2.2)
    assert apart["low"] == pytest.approx(2.2 - 2.776445 * 0.83666 / 5**0.5, abs=1e-4)  # t(4) and the sd of 2, 3, 2, 1, 3
    assert apart["says"] == "simple − none = +2.2 points, 95 % CI 1.2 to 3.2, 5 seeds: it helped here"
    assert apart["effect_is"] == "Hedges g of the pairs"
    json.dumps(result, allow_nan=False)


def test_lower_may_be_better():
    result = judged({"none": [2.0, 2.1, 2.2], "self": [1.0, 1.2, 1.1]}, FRECHET)
    assert result["differences"][0]["says"].endswith("3 seeds: it helped here (lower is better)")
    assert result["differences"][0]["says"].startswith("self − none = −1.00, 95 % CI −1.")
    worse = judged({"none": [1.0, 1.2, 1.1], "self": [2.0, 2.1, 2.2]}, FRECHET)
    assert "it hurt here" in worse["differences"][0]["says"]


def test_what_is_not_told_apart_says_how_many_seeds_would_do():
    result = judged({"none": NONE, "self": [0.61, 0.61, 0.63, 0.61, 0.61]})
    (apart,) = result["differences"]
    assert re.search(rf"5 seeds: not told apart; about {apart['seeds']} would settle a difference of this size$", apart["says"])
    assert apart["seeds"] > 5
    none = judged({"none": NONE, "self": NONE})["differences"][0]["says"]
    assert none.startswith("self − none = 0 in each of 5 seeds: this outcome tells nothing")


@pytest.mark.parametrize("shift", [0.05, -0.05])
def test_equal_differences_are_no_certainty(shift):
    """Shares of few images are coarse: the same step in two seeds is no proof."""
    result = judged({"none": [0.6, 0.65], "self": [0.6 + shift, 0.65 + shift], "simple": [0.61, 0.66]})
    (apart, other) = result["differences"]
    size = "+5" if shift > 0 else "−5"
    assert apart["says"] == f"self − none = {size} points, equal in each of 2 seeds: no interval; more seeds are needed"
    assert (apart["paired"], apart["holm"], apart["seeds"]) == (1.0, 1.0, None)
    assert "helped" not in other["says"] + apart["says"]
    assert verdict.tests(result)[1] == ["self − none", size.removeprefix("+"), *["-"] * 5]


def test_many_arms_are_corrected_for():
    """One difference that is clear alone is not, once four are looked at."""
    values = {"none": [0.0, 0.1, 0.2, 0.3], "a": [0.1, 0.15, 0.3, 0.35]}
    alone = judged(values)["differences"][0]
    noise = {name: [0.2, 0.1, 0.3, shift] for name, shift in (("b", 0.1), ("c", 0.0), ("d", 0.2), ("e", 0.3), ("f", 0.5))}
    among = judged(values | noise)["differences"][0]
    assert alone["paired"] == among["paired"] < 0.05
    assert "it helped" in alone["says"]
    assert among["holm"] == pytest.approx(6 * among["paired"])
    assert "not told apart once 6 differences are looked at" in among["says"]


def test_a_failed_run_has_the_worst_outcome_and_is_counted():
    result = judged({"none": [0.60, 0.62, 0.61], "wild": [0.70, None, 0.75]})
    none, wild = result["arms"]
    assert wild["values"] == pytest.approx([70, 60, 75])  # the worst of all arms
    assert (wild["failed"], none["failed"]) == ([1], [])
    counted = "in means and tests each counts as the worst finished outcome of the study, 60"
    assert result["notes"][0] == f"1 of 6 runs failed; {counted}: a mean with failures is a bound, the truth is no better"
    assert result["differences"][0]["says"].endswith("; 1 of 3 against 0 of 3 failed, p = 1")
    assert verdict.table(result)[2][verdict.table(result)[0].index("failed")] == "1"
    worst = judged({"none": [1.0, 3.0], "wild": [None, 2.0]}, FRECHET)["arms"][1]["values"]
    assert worst == [3.0, 2.0]  # where lower is better
    assert judged({"none": [None, None], "wild": [None, None]}) is None


def test_failures_do_not_vanish_and_have_a_test_of_their_own():
    """Whoever fails has the worst outcome, which may be that of every run that did not."""
    result = judged({"none": [0.6] * 6, "wild": [None] * 6})
    (apart,) = result["differences"]
    equal = "wild − none = 0 points, equal in each of 6 seeds: no interval; more seeds are needed"
    assert apart["says"] == f"{equal}; 6 of 6 against 0 of 6 failed, p = 0.031"
    assert apart["failures"] == {"counts": [6, 0], "p": pytest.approx(2 / 2**6), "holm": pytest.approx(2 / 2**6)}
    assert "tells nothing" not in apart["says"]
    both = judged({"none": [0.6, None, 0.7], "wild": [0.6, None, 0.7]})["differences"][0]
    assert both["says"].endswith("1 of 3 against 1 of 3 failed, p = 1")
    assert "tells nothing" not in both["says"]
    calm = judged({"none": NONE, "wild": [None] * 5, "self": [0.61, 0.61, 0.63, 0.61, 0.61]})["differences"]
    assert calm[0]["failures"]["holm"] == pytest.approx(2 * calm[0]["failures"]["p"])  # two differences are looked at
    assert "failures" not in calm[1]


def test_times_that_came_out_unequal_are_told():
    data = study({"none": [0.6, 0.7], "self": [0.6, 0.65]})
    data["plan"]["equal"] = "time"
    note = "by more than 10 %: none 8.3 min, self 10 min"
    assert not any(note in each for each in verdict.judge(data, [0, 1])["notes"])
    for run in data["runs"]:
        run["seconds_a_step"] *= 1.2 if run["arm"] == "self" else 1
    assert any(note in each for each in verdict.judge(data, [0, 1])["notes"])


def test_a_cut_study_is_judged_by_its_complete_seeds():
    whole = {"none": [0.60, 0.62, 0.61, 0.9], "self": [0.61, 0.64, 0.66, ""]}
    result = judged(whole)
    assert result["seeds"] == [0, 1, 2]
    assert [row["n"] for row in result["arms"]] == [3, 3]
    assert result["differences"][0]["mean"] == pytest.approx(difference([61, 64, 66], [60, 62, 61]).mean)
    assert "the study is not finished: this is of the 3 seeds of 4 that all arms have" in result["notes"]
    assert judged({"none": [0.6, 0.7], "self": [0.6, ""]}) is None  # one seed is no interval


def test_last_and_best_are_apart_where_there_are_several_exams():
    rows = verdict.table(judged({"none": NONE, "self": NONE}, exams=3))
    assert rows[0][:6] == ["arm", "n", "top-1 accuracy [points]", "sd", "best", "sd"]
    assert rows[1][2:6] == ["61.0", "1.6", "62.0", "1.6"]
    assert any("flatters" in note for note in judged({"none": NONE, "self": NONE}, exams=3)["notes"])
    assert "best" not in verdict.table(judged({"none": NONE, "self": NONE}))[0]


def test_seeds_that_were_added_after_a_look_are_told():
    result = judged({"none": NONE, "self": NONE}, more={"asked": [3, 5]})
    assert any(note.startswith("seeds were added after a look (3, then 5)") for note in result["notes"])


def test_numbers_end_where_their_error_begins():
    assert verdict.figures(1.3, 1.9432, 0.6432, 3.2432) == ["1.9", "0.6", "3.2"]
    assert verdict.figures(0.0134, 0.12345) == ["0.123"]
    assert verdict.figures(130.0, -1234.6) == ["−1,235"]
    assert verdict.figures(0.0, 0.5) == ["0.5"]


def test_the_table_of_a_terminal_is_aligned():
    lines = verdict.worded(judged({"none": NONE, "a long name": [0.62, 0.65, 0.63, 0.64, 0.62]}))
    head, *rows = lines[:3]
    assert len({len(line) for line in (head, *rows)}) == 1
    assert lines[-1] == "note: higher is better"


def test_the_page_stands_alone_and_escapes():
    evil = "<img src=x onerror=alert(1)>"
    data = study({evil: [0.6, 0.7, 0.5], "self": [0.7, None, 0.65]}, exams=2, more={"command": f"gander compare {evil}"})
    data["runs"][4]["why"] = evil
    html = page(data, verdict.judge(data, [0, 1, 2]))
    assert "<img" not in html
    assert not re.search(r"""<[^>]*\b(src|href)\s*=|url\(|<script|@import""", html)
    assert "default-src 'none'" in html
    assert html.count("<svg") == 2
    assert html.count('class="dot') == 3 + 2 + 3
    assert html.count('class="failed') == 1
    assert "1 of 3 against 0 of 3 failed" in html
    assert "prefers-color-scheme:dark" in html
    assert "@media print" in html
    early = page(study({"none": [0.6, ""], "self": ["", ""]}), None)
    assert "A result takes two seeds of all arms" in early
    assert "<svg" not in early
