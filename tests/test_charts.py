"""Charts by their numbers: where points stand, what the axes say."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gander import charts
from gander.charts import Axis

SVG = "{http://www.w3.org/2000/svg}"


def parsed(chart):
    """The elements of a chart, which is well-formed XML, by tag and class."""
    root = ElementTree.fromstring(chart)
    found = {}
    for element in root.iter():
        found.setdefault(f"{element.tag.removeprefix(SVG)}.{element.get('class', '')}".split()[0], []).append(element)
    return found


def places(polyline):
    return [tuple(map(float, pair.split(","))) for pair in polyline.get("points").split()]


def ticked(chart, anchor):
    """(pixel, number) of an axis's ticks: those below are centred, those at the left end at their place."""
    side = "x" if anchor == "middle" else "y"
    found = [e for e in parsed(chart)["text."] if e.get("text-anchor") == anchor and re.fullmatch(r"[-\d.,e]+", e.text)]
    return [(float(e.get(side)), float(e.text.replace(",", ""))) for e in found]


def test_points_stand_where_the_ticks_say():
    chart = charts.lines({"loss": [(0, 1.0), (500, 3.0), (1000, 2.0)]}, title="loss")
    (line,) = parsed(chart)["polyline.line"]
    points = places(line)
    for side, anchor, drop in ((0, "middle", 0), (1, "end", 4)):  # words stand 4 px below the line of their tick
        (p, a), (q, b) = ticked(chart, anchor)[:2]
        values = [(point[0] if side == 0 else point[1]) for point in points]
        read = [a + (value - (p - drop)) / (q - p) * (b - a) for value in values]
        assert read == pytest.approx([[0, 500, 1000], [1, 3, 2]][side], abs=0.02 * (1000, 3)[side])


def test_a_log_axis_puts_equal_ratios_at_equal_distances():
    chart = charts.lines({"σ": [(0, 0.01), (1, 1.0), (2, 100.0), (3, 0.0), (4, -1.0)]}, title="σ", log=True)
    (line,) = parsed(chart)["polyline.line"]
    heights = [y for _, y in places(line)]
    assert len(heights) == 3  # 0 and below have no logarithm
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.02)
    assert [number for _, number in ticked(chart, "end")] == [0.01, 0.1, 1.0, 10.0, 100.0]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_round_inside_and_told_apart(low, wide):
    axis = Axis.over([low, low + wide], 0, 100)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 8
    assert all(axis.low - 1e-6 * wide <= tick <= axis.high + 1e-6 * wide for tick in ticks)
    step = ticks[1] - ticks[0]
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-6)
    assert min(abs(mantissa - m) for m in (1, 2, 5)) < 1e-3
    assert len(set(charts.worded(ticks))) == len(ticks)


def test_ticks_are_worded_for_people():
    assert charts.worded([0.0, 0.5, 1.0]) == ["0.0", "0.5", "1.0"]
    assert charts.worded([0.0, 100_000.0]) == ["0", "100,000"]
    assert charts.worded([1e-5, 2e-5]) == ["1e-05", "2e-05"]
    assert charts.worded([]) == []


def test_dots_stand_by_value_and_seed():
    """Equal steps in value are equal steps to the right; dot i stands as high in its row in every row."""
    groups = {"none": [1.0, 2.0, 3.0], "self": [2.0, 3.0, 4.0]}
    found = parsed(charts.dots(groups, title="accuracy", intervals={"none": (1.0, 2.0, 3.0)}))
    x = [float(dot.get("cx")) for dot in found["circle.dot"]]
    y = [float(dot.get("cy")) for dot in found["circle.dot"]]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.02)
    assert x[3:5] == pytest.approx(x[1:3], abs=0.02)
    assert [a - b for a, b in zip(y[3:], y[:3], strict=True)] == pytest.approx([46.0] * 3)
    (bar,) = found["path.mean"]
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", bar.get("d"))]
    assert numbers[0] == pytest.approx(x[0])  # low, then high, then the mean
    assert numbers[2] == pytest.approx(x[2])
    assert numbers[3] == pytest.approx(x[1])


def test_a_failed_run_is_a_cross_and_differences_have_a_zero():
    found = parsed(charts.dots({"a": [1.0, 2.0]}, title="t", failed={"a": {1}}, names=["seed 0", "seed 7"], zero=True))
    assert len(found["circle.dot"]) == 1
    (cross,) = found["path.failed"]
    assert "".join(cross.itertext()) == "seed 7: 2, failed"
    (zero,) = found["line.zero"]
    assert float(zero.get("x1")) < float(found["circle.dot"][0].get("cx"))


def test_what_is_no_number_is_not_drawn_and_what_is_empty_is_a_frame():
    chart = charts.lines({"a": [(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)], "b": []}, title="t")
    first, second = parsed(chart)["polyline.line"]
    assert len(places(first)) == 2
    assert second.get("points") == ""
    assert "nan" not in chart
    assert "inf" not in chart
    for empty in (charts.lines({}, title="t"), charts.dots({}, title="t"), charts.dots({"a": [math.nan]}, title="t")):
        parsed(empty)
    assert "circle.dot" in parsed(charts.lines({"a": [(5, 1.0)]}, title="one point"))


def test_long_lines_are_thinned_without_losing_a_spike():
    points = [(float(i), 0.0) for i in range(20_000)]
    points[12_345] = (12_345.0, 9.0)
    points[777] = (777.0, -9.0)
    (line,) = parsed(charts.lines({"loss": points}, title="loss"))["polyline.line"]
    drawn = places(line)
    assert len(drawn) <= charts.MOST + 2
    assert [a for a, _ in drawn] == sorted(a for a, _ in drawn)
    heights = sorted(y for _, y in drawn)
    assert heights[0] < heights[1] == heights[-2] < heights[-1]


def test_lines_are_told_apart_by_more_than_colour_and_named():
    names = [f"series {i}" for i in range(12)]
    found = parsed(charts.lines({name: [(0, 1.0), (1, 2.0)] for name in names}, title="many", width=400))
    looks = {(line.get("class"), line.get("stroke-dasharray")) for line in found["polyline.line"]}
    assert len(looks) == len(names)
    assert set(names) <= {e.text for e in found["text."]}
    assert max(float(e.get("x")) for e in found["text."]) < 400


def test_every_word_is_escaped_and_the_chart_has_a_name():
    evil = "<script>alert('x')</script>"
    for chart in (
        charts.lines({evil: [(0, 1.0)], "b": [(0, 2.0)]}, title=evil, x=evil, y=evil),
        charts.dots({evil: [1.0]}, title=evil, x=evil, names=[evil]),
    ):
        assert "<script" not in chart
        root = ElementTree.fromstring(chart)
        assert root.find(f"{SVG}title").text == evil
        assert root.get("role") == "img"
        assert "prefers-color-scheme:dark" in chart
