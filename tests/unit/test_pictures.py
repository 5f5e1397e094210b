"""Charts that any viewer can draw: well-formed, inside their frame, whatever the names."""

from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tasks.pictures import curves_svg, read_curve

SVG = "{http://www.w3.org/2000/svg}"
Curves = dict[str, list[tuple[float, float]]]


def texts(curves: Curves, x_label: str = "step") -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(curves_svg(curves, x_label)).iter(f"{SVG}text")]


def lines(curves: Curves) -> list[list[tuple[float, float]]]:
    """The drawn points of each curve."""
    found = ElementTree.fromstring(curves_svg(curves, "step")).iter(f"{SVG}polyline")
    return [[(float(x), float(y)) for x, y in (pair.split(",") for pair in line.get("points", "").split())] for line in found]


@pytest.mark.parametrize("name", ["train loss", "a<b & c>d", "\"quoted\" 'name'", "</text><script>alert(1)</script>", "손실"])
def test_any_name_is_shown_and_none_is_markup(name: str) -> None:
    found = texts({name: [(0, 1.0), (10, 0.5)]}, x_label=name)
    assert found[-1] == name
    assert f"{name} 10" in found
    assert "<script" not in curves_svg({name: [(0, 1.0)]}, name)


def test_each_curve_is_drawn_inside_the_frame_and_goes_down_as_it_falls() -> None:
    first, second = lines({"train": [(1, 3.0), (2, 2.0), (3, 1.0)], "eval": [(0, 4.0), (3, 0.0)]})
    assert [len(first), len(second)] == [3, 2]
    assert all(0 <= x <= 640 and 0 <= y <= 300 for x, y in first + second)
    for left, right in [*pairwise(first), *pairwise(second)]:
        assert left[0] < right[0]
        assert left[1] < right[1]  # down the page
    assert first[-1][0] == second[-1][0]


@pytest.mark.parametrize("curves", [{}, {"empty": []}, {"zero": [(0.0, 0.0)]}, {"one": [(5.0, 2.0)], "none": []}])
def test_few_points_are_a_picture_too(curves: Curves) -> None:
    assert len(lines(curves)) == len(curves)


def test_nothing_is_loaded_from_anywhere() -> None:
    picture = curves_svg({"loss": [(0, 1.0)]}, "step").replace("http://www.w3.org/2000/svg", "")
    assert not any(word in picture for word in ("http", "href", "url(", "script"))


def test_a_curve_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("step,loss\n1,2.5\n2,1e-3\n")
    assert read_curve(path) == [(1.0, 2.5), (2.0, 0.001)]
    path.write_text("step,loss\n")
    assert read_curve(path) == []
