"""Tables on pages: what stands in a cell, in which order, what is folded."""

import base64
import io
import re

import numpy as np
import pandas as pd
import pytest

from report import grid
from study import summary
from study.words import minus


def cells(page: str) -> list[list[str]]:
    """The text of each cell of the first table, a list per row, padding spaces as spaces."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", page.partition("</table>")[0], re.S)
    plain = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in rows]
    return [[re.sub(r"<[^>]+>", "", cell).replace(chr(0x2007), " ") for cell in row] for row in plain]


METHODS = ("a", "b", "c")


def compared(means, halves, column="true return (credit)") -> str:
    texts = [summary.interval_text(m, m - h, m + h) for m, h in zip(means, halves, strict=True)]
    return grid.table(pd.DataFrame({"method": METHODS, column: texts}))


def test_a_difference_and_its_interval_are_one_cell():
    frame = pd.DataFrame(
        {"method": ["a", "b"], "difference": [-1.0, 2.0], "low": [-2.5, np.nan], "high": [0.5, np.nan], "wins": [0, 2]}
    )
    assert cells(grid.table(frame))[0] == ["method", "difference", "seeds above"]
    assert cells(grid.table(frame))[2] == ["a", "−1.00 ± 1.50", "0"]
    uneven = frame.assign(high=[1.5, np.nan]).rename(
        columns={"difference": "rate", "low": "rate_low", "high": "rate_high"}
    )
    assert cells(grid.table(uneven))[1][1] == "−1.00 [−2.50, 1.50]", "a bootstrap's sides differ and are both said"


def test_numbers_have_a_true_minus_for_readers_and_a_hyphen_in_files():
    """No zero is negative, and names, ranges and dates keep their hyphens."""
    said = "-0.51 [-0.43, -.14] -0.00 −0.000 ± 0.1 cpu-0.1 2026-11-27 1e-07 --jobs 2 segment - bandit"
    kept = "cpu-0.1 2026-11-27 1e-07 --jobs 2 segment - bandit"
    assert minus(said) == f"−0.51 [−0.43, −.14] 0.00 0.000 ± 0.1 {kept}"
    page = grid.table(pd.DataFrame({"row": ["a"], "measured": [f"{kept} -0.51"]}))
    assert cells(page)[1] == ["a", f"{kept} −0.51"]
    assert "-0.51" in base64.b64decode(re.search(r'base64,([^"]*)', page)[1]).decode()


@pytest.mark.parametrize("halves, marked", [((0.1, 0.1, 0.1), True), ((0.1, 0.6, 1.0), False)])
def test_methods_stand_from_the_best_down_and_only_a_clear_best_is_marked(halves, marked):
    page = compared((1.0, 3.0, 2.5), halves)
    assert [row[0] for row in cells(page)[1:]] == ["b", "c", "a"]
    assert ("<strong>3.00" in page) == marked


def test_two_seeds_are_both_said_where_an_interval_would_say_nothing():
    texts = [
        summary.interval_text(x, low, high, seeds=n)
        for x, low, high, n in (
            (1.0, 1 - 12.7062 / 2, 1 + 12.7062 / 2, 2),
            (1.0, 0.5, 1.5, 3),
            (1.0, np.nan, np.nan, 1),
        )
    ]
    assert texts == ["1.00 (0.50 to 1.50)", "1.00 ± 0.50", "1.00"]
    assert "In brackets, of two seeds" in grid.table(pd.DataFrame({"method": METHODS, "x": texts}))
    assert "In brackets" not in grid.table(pd.DataFrame({"method": METHODS[1:], "x": texts[1:]}))


def test_one_seed_is_never_the_clear_best():
    page = compared((1.0, 3.0, 2.0), (0.1, np.nan, 0.1))
    assert [row[0] for row in cells(page)[1:]] == ["b", "c", "a"] and "<strong>" not in page


def test_a_printed_tables_rows_keep_the_papers_order():
    frame = pd.DataFrame({"in the paper": ["x", "y"], "here": ["a", "b"], "true return (credit)": ["1.00", "2.00"]})
    assert [row[0] for row in cells(grid.table(frame))[1:]] == ["x", "y"]
    alone = cells(grid.table(frame.drop(columns="in the paper")))
    assert [row[0] for row in alone] == ["method", "a", "b"]


def test_what_does_not_fit_is_folded_and_nothing_is_lost():
    frame = pd.DataFrame({f"measure {i} (tokens)": [i + 0.5, i + 0.25] for i in range(12)})
    page = grid.table(frame.assign(seeds=3), name="some")
    first, rest = page.split("<details>")
    assert len(cells(first)[0]) <= grid.COLUMNS
    names = {f"measure {i}" for i in range(12)}
    assert names <= set(re.findall(r"measure \d+", first)) | set(re.findall(r"measure \d+", rest))
    assert "In all rows: seeds 3" in rest and "<th" in first and 'class="unit">(tokens)' in first
    csv = base64.b64decode(re.search(r'download="some.csv" href="data:text/csv;base64,([^"]+)"', page)[1]).decode()
    assert pd.read_csv(io.StringIO(csv)).shape == (2, 13), "the whole table is there to download"


def test_cells_are_numbers_dashes_and_words():
    commit = "0123456789abcdef0123456789abcdef01234567"
    frame = pd.DataFrame({"of": ["<b>", "y"], "n": [28000, 3], "x": [0.5, None], "gate": [True, False]})
    frame = frame.assign(chars=[548.0, np.nan], commit=commit)
    assert cells(grid.table(frame))[1:] == [
        ["&lt;b&gt;", "28,000", "0.50", "yes", "548", "0123456"],
        ["y", "3", "–", "no", "–", "0123456"],
    ]


def test_a_first_column_that_repeats_heads_its_rows():
    frame = pd.DataFrame({"paper": ["one"] * 4 + ["two"] * 3, "says": list("abcdefg")})
    rows = cells(grid.table(frame))
    assert rows[0] == ["says"] and rows[1] == ["one"] and rows[6] == ["two"] and len(rows) == 10
    apart = frame.assign(paper=["one", "two", "one", "two", "one", "two", "one"])
    assert cells(grid.table(apart))[0] == ["paper", "says"], "what is not together is no group"


def test_a_column_has_one_way_to_write_intervals():
    """A bootstrap interval is even by chance only; one even row must not hide the others' bounds."""
    page = grid.table(pd.DataFrame({"scorer": ["a", "b", "c"], "x": ["0.60 ± 0.05", "0.57 [0.51, 0.64]", "0.50"]}))
    assert [row[1] for row in cells(page)[1:]] == ["0.60 [0.55, 0.65]", "0.57 [0.51, 0.64]", "0.50"]
    page = grid.table(pd.DataFrame({"scorer": ["a", "b"], "x": ["0.60 ± 0.05", "0.50"]}))
    assert '<span class="none" aria-hidden="true">' in page, "what only takes room is not read out"


def test_rows_of_which_nothing_is_measured_are_folded_with_what_names_them():
    """A screen of dashes hides the two rows that say something."""
    frame = pd.DataFrame(
        {"row": list("abc"), "less": "x", "difference": ["1.00 ± 0.50", None, None], "seeds": [4, 0, 0]}
    )
    page = grid.table(frame.assign(wins=[3, None, None]))
    shown, folded = page.split("<details>")
    assert [row[0] for row in cells(shown)] == ["row", "a"]
    assert "Nothing measured yet: 2 rows" in folded and cells(folded) == [["row", "less"], ["b", "x"], ["c", "x"]]
    assert "–" not in shown and grid.table(frame.assign(n=1)).count("<details>") == 0, "n is measured of every row"
    none = grid.table(frame[1:])
    assert none.count("<table") == 1 and "Nothing measured yet: 2 rows" in none
    words = pd.DataFrame({"of": ["python", "gpu"], "in the records": ["3.11", "none"]})
    assert "Nothing measured" not in grid.table(words)


def test_groups_keep_their_names_where_rows_are_folded_and_a_number_says_of_what():
    frame = pd.DataFrame(
        {"kinds": [1] * 4 + [2] * 4, "method": list("abcdabcd"), "return": [1.0, 2.0, 3.0, np.nan] * 2}
    )
    page = grid.table(frame)
    assert [row for row in cells(page) if len(row) == 1] == [["kinds 1"], ["kinds 2"]]
    assert "Nothing measured yet: 2 rows" in page


def test_a_row_with_a_measurement_in_words_is_measured_whatever_another_column_lacks():
    told = ["held: 2.41 ± 0.16, p <0.001", "opposite: −10.40 [−12.0, −8.1], p 0.002"]
    frame = pd.DataFrame({"says": ["a", "b"], "all": told, "at 2 nats": ["open: 0.10 ± 0.30", None]})
    page = grid.table(frame)
    assert "Nothing measured" not in page and len(cells(page)) == 3
    page = grid.table(pd.concat([frame, pd.DataFrame({"says": ["c"]})]))
    assert "Nothing measured yet: 1 row" in page and len(cells(page)) == 3


def test_a_fold_repeats_what_tells_its_rows_apart_and_no_more():
    long = {f"measure {i} (tokens)": [i + 0.5, i, i, i] for i in range(10)}
    frame = pd.DataFrame({"row": ["token", "token", "segment", "segment"], "fit": ["huber", "ols"] * 2} | long)
    folded = grid.table(frame).split("<details>")[1]
    assert cells(folded)[0][:2] == ["row", "fit"] and [row[1] for row in cells(folded)[1:]] == ["huber", "ols"] * 2
    apart = frame.assign(row=["token", "sentence", "segment", "bandit"])
    assert "fit" not in cells(grid.table(apart).split("<details>")[1])[0]


def test_what_is_folded_is_named_so_that_no_two_names_are_alike():
    names = [
        "method",
        "in (tokens)",
        "b",
        "c",
        "d",
        "e",
        "f",
        "in (calls)",
        "win rate, error",
        "out (x)",
        "out (y)",
        "g (z)",
    ]
    page = grid.table(pd.DataFrame([["a", *range(11)]], columns=names))
    assert "Also: in (calls); win rate, error; out (x); out (y); g</summary>" in page


def test_what_all_rows_say_is_said_once_and_a_measurement_is_not():
    frame = pd.DataFrame({"method": list("abc"), "ceiling": 0.92, "gain": "1.00 ± 0.50", "in, of a run": [0, 0, 0]})
    page = grid.table(frame)
    assert cells(page)[0] == ["method", "gain"] and "In all rows: ceiling 0.92; in, of a run 0. <a" in page
    assert cells(grid.table(frame[:2]))[0] == list(frame), "two rows agree by chance"


def test_a_card_of_a_phone_is_headed_by_what_names_it_and_hidden_where_it_says_nothing():
    frame = pd.DataFrame({"place": ["Table 1"] * 2 + ["Table 2"], "row": list("abc"), "x": [1.5, 2.5, 3.5]})
    assert re.findall(r'class="head" data-label="(\w+)"', grid.table(frame)) == ["row"] * 3
    at = pd.DataFrame([(p, x) for p in (500, 4000) for x in (0.8, 1.0)], columns=["pairs", "λ"])
    folded = grid.table(at.assign(**{f"measure {i} (tokens)": [1.5, 2.5, 3.5, 4.5] for i in range(8)}))
    for part in folded.split("<details>"):
        assert cells(part)[0][:2] == ["pairs", "λ"], "numbers that name a row are repeated too"
        assert set(re.findall(r'head" data-label="([^"]+)"', part)) == {"pairs", "λ"}
    blank = {f"x {i}": [None, 1.5] for i in range(6)} | {"y": [2.5, 1.5]}
    assert grid.table(pd.DataFrame({"method": list("ab"), **blank})).count('<tr class="bare">') == 1
