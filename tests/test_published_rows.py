"""No printed row of a paper that we run goes without a method, and no method claims a table that has no such row."""

import re

import pytest

from densereward.evaluation import published_rows, summary, tables
from densereward.methods import METHODS
from densereward.published import PAPERS, load_published
from test_figures import records

TABLES = [(paper, table) for paper, found in published_rows.ROWS.items() for table in found]


@pytest.mark.parametrize("paper", published_rows.PAPERS)
def test_every_printed_row_of_results_is_a_method(paper):
    """A row that a paper prints and we have not cannot be missed by anybody who reads our tables."""
    found = published_rows.ROWS[paper]
    there = (
        set(load_published(paper)["table"]) - {published_rows.FIGURE_3} - set(published_rows.SETTINGS.get(paper, ()))
    )
    assert there == set(found) - {published_rows.FIGURE_3}, "a table of results is mapped to no methods"
    for table in found:
        assert list(published_rows.printed(table, paper).index) == list(found[table])
        assert set(found[table].values()) <= METHODS.keys()


@pytest.mark.parametrize("paper", published_rows.PAPERS)
def test_a_method_that_names_a_table_stands_in_it(paper):
    """`methods.py` says where each row is printed: the page of methods must not point to what is not there."""
    named = [(name, int(n)) for name, row in METHODS.items() for n in re.findall(rf"{paper} Table (\d+)", row.source)]
    assert named, f"no method says that it is of {paper}"
    for name, table in named:
        assert name in published_rows.ROWS[paper].get(table, {}).values(), f"{name}: no row of {paper}'s table {table}"


@pytest.mark.parametrize("paper, table", TABLES)
def test_main_columns_are_printed_numbers(paper, table):
    """Every mapped paper, those without records too: what stands beside ours is a number for each row."""
    if table != published_rows.FIGURE_3:
        cells = published_rows.printed(table, paper)
        assert cells[published_rows.MAIN[paper][table]].astype(float).notna().all()
        assert list(cells.index) == list(published_rows.ROWS[paper][table])


def test_the_methods_of_adaptive_mask_are_its_columns():
    cells = published_rows.printed(1, "adaptive-mask")
    assert cells.loc["+APPO(ours)", "AVG"] == "0.8044" and cells.loc["base", "Math / GSM8K"] == "0.8840"
    assert set(published_rows.ROWS) == set(PAPERS)


def test_a_method_knows_where_it_is_printed():
    assert published_rows.places("bandit-synthetic") == ["tlcr Table 1: PPO_synthetic"]
    assert "segment-ppo Figure 3: 1.5" in published_rows.places("cutoff-1.5")
    assert "tlcr Table 1: PPO_seq" in published_rows.places("bandit")
    assert published_rows.places("rloo") == []


def test_tlcrs_table_stands_beside_ours():
    """Our mean beside the right printed score; a method without records stays, with dashes."""
    runs = tables.alike(records(("sft", "bandit", "tlcr")))
    frame = tables.beside(runs, 1, "tlcr").set_index("in the paper")
    assert list(frame.index) == list(published_rows.ROWS["tlcr"][1])
    assert frame.loc["PPO_seq", "Overall"] == "4.68" and frame.loc["PPO_seq", "here"] == METHODS["bandit"].label
    mean = summary.intervals(summary.values(runs, tables.RETURN), ["method"]).set_index("method").loc["tlcr", "mean"]
    assert frame.loc["TLCR (ours)", "true return (credit)"].startswith(f"{mean:.2f} [")
    assert frame["true return (credit)"].isna()["FIGA"] and frame["seeds"]["FIGA"] == "0"
    assert tables.kendall(runs, 1, "Overall", paper="tlcr")["rows"] == 3
    signs = tables.contrasts(runs, 1, "tlcr", paper="tlcr").set_index("row")
    assert signs.paper["ReMax"] == pytest.approx(4.76 - 5.04) and signs.sign["ReMax"] == "no record"
    drawn = summary.values(tables.drawn(runs, 1, "tlcr"), "paper.main")
    assert len(drawn) == 8 and drawn["value"].max() == 5.04


def test_tlcr_is_ranked_by_its_overall_score():
    runs = tables.alike(records(tuple(published_rows.ROWS["tlcr"][1].values())))
    ranked = tables.ranks(runs, 1, paper="tlcr")
    assert ranked.paper["tlcr"] == 1 and ranked.paper["sft"] == 8 and ranked.here.notna().all()
    assert -1 <= tables.kendall(runs, 1, "Overall", paper="tlcr")["tau"] <= 1
