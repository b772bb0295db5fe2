"""Lines that say what they are: names that can be read, values that were drawn."""

import html
import itertools
import json
import re
from xml.etree import ElementTree

import pytest
from matplotlib.text import Text

from report import lines, look


def figure_of(curves: dict[str, tuple], **limits):
    figure, axes = look.canvas(height=2.0)
    ax = axes[0, 0]
    for name, (x, y) in curves.items():
        ax.plot(x, y, label=name)
    ax.set(xlabel="rollout batches", ylabel="true return\n(credit)", **limits)
    lines.ends(ax, "learned rewards")
    return figure, ax


def said(page: str) -> dict[str, tuple]:
    """name -> (units, points) as the page gives them to `lines.js`."""
    found = [json.loads(html.unescape(data)) for data in re.findall(r'data-line="([^"]*)"', page)]
    return {name: (units, points) for name, units, points in found}


@pytest.mark.parametrize("scale", ["linear", "symlog"])
def test_names_at_equal_ends_lie_over_no_other_in_the_order_of_their_ends(scale):
    ends = {f"Method {i}": ([0, 1], [0, 1 + 0.001 * i]) for i in range(6)}
    figure, ax = figure_of(ends, ylim=(-30, 3), yscale=scale)
    lines.apart(figure)
    names = [text for text in ax.texts if text.get_gid() == lines.NAME]
    boxes = [Text.get_window_extent(text).shrunk(1, 0.9) for text in names]  # without the line that leads there
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert [box.y0 for box in boxes] == sorted(box.y0 for box in boxes)
    assert all(ax.bbox.y0 - 1 <= box.y0 and box.y1 <= ax.bbox.y1 + 1 for box in boxes), "within the height of the axes"


def test_a_name_stands_where_its_line_ends_if_there_is_room():
    figure, ax = figure_of({"one": ([0, 2, 1], [0, 5, 9]), "_": ([0], [0]), "none": ([], [])}, ylim=(0, 10))
    lines.apart(figure)
    name = next(text for text in ax.texts if text.get_gid() == lines.NAME)
    assert [text.get_text() for text in ax.texts] == ["one"] and name.get_position() == pytest.approx((1, 5))


def test_a_path_that_goes_back_is_named_where_it_ended():
    figure, ax = figure_of({})
    ax.plot([0, 2, 1], [0, 9, 5], label="one")
    lines.ends(ax, last=True)
    lines.apart(figure)
    name = next(text for text in ax.texts if text.get_gid() == lines.NAME)
    assert name.xy == (1, 5) and name.get_position() == pytest.approx((1, 5))


def test_a_page_says_each_point_that_was_drawn_and_titles_the_last():
    figure, ax = figure_of({"A & B": ([0, 1, 2], [1.0, float("nan"), -2.54321])})
    page = look.drawing(figure, "alt").split('class="phone"')[0]
    units, points = said(page)["A & B"]
    assert units == ["rollout batches", "true return (credit)"]
    assert [point[2:] for point in points] == [["0", "1"], ["2", "−2.543"]], "a gap has no value"
    assert "<title>A &amp; B: rollout batches 2, true return (credit) −2.543</title>" in page
    svg = ElementTree.fromstring(page.removesuffix("<svg ").replace("xlink:", ""))
    path = next(group for group in svg.iter() if group.get("data-line"))[1].get("d")
    drawn = [tuple(map(float, spot)) for spot in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)]
    assert points[0][:2] == pytest.approx(drawn[0], abs=0.06), "the ring lies on the line"


def test_axes_of_words_and_of_settings_say_what_stands_at_the_tick():
    figure, axes = look.canvas(1, 2, sharey=True)
    one, other = axes[0]
    one.plot([3.7], [1.18], "o", label="Token")
    one.set_yticks([0, 1], ["Bandit", "Token"])
    other.plot([1020], [0.1], "o", label="Segment")
    other.set_xticks([1000, 4000], ["1,000", "4,000"])
    other.xaxis.set_gid(lines.SETTINGS)
    found = said(look.drawing(figure, "alt"))
    assert found["Token"][1][0][2:] == ["3.7", "Token"] and found["Segment"][1][0][2:] == ["1,000", "Bandit"]
