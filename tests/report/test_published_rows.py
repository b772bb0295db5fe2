"""No printed row of a paper that we run goes without a method, and no method claims a table that has no such row."""

import re

import pytest

from report import catalogue, published_rows, tables
from report.published import PAPERS, load_published
from study import summary
from study.methods import METHODS
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


def test_every_printed_row_is_listed_once_with_its_method():
    found = published_rows.every()
    assert len(found) == sum(len(rows) for p in published_rows.PAPERS for rows in published_rows.ROWS[p].values())
    assert not found[["paper", "place", "printed row"]].duplicated().any()
    lines = set(found.itertuples(index=False, name=None))
    assert ("tlcr", "Table 1", "PPO_synthetic", "bandit-synthetic") in lines
    assert ("segment-ppo", "Figure 3", "1.5", "cutoff-1.5") in lines


def test_tlcrs_table_stands_beside_ours():
    """Our mean beside the right printed score; a method without records stays, with dashes."""
    runs = tables.alike(records(("sft", "bandit", "tlcr")))
    frame = tables.beside(runs, 1, "tlcr").set_index("in the paper")
    assert list(frame.index) == list(published_rows.ROWS["tlcr"][1])
    assert frame.loc["PPO_seq", "Overall"] == "4.68" and frame.loc["PPO_seq", "here"] == METHODS["bandit"].label
    mean = summary.intervals(summary.values(runs, tables.RETURN), ["method"]).set_index("method").loc["tlcr", "mean"]
    assert frame.loc["TLCR (ours)", "true return (credit)"].startswith(f"{mean:.2f} ± ")
    assert frame["true return (credit)"].isna()["FIGA"] and frame["seeds"]["FIGA"] == "0"
    assert tables.kendall(runs, 1, "Overall", paper="tlcr")["rows"] == 3
    signs = tables.contrasts(runs, 1, "tlcr", paper="tlcr").set_index("row")
    assert signs.paper["ReMax"] == pytest.approx(4.76 - 5.04) and signs.sign["ReMax"] == "no record"
    drawn = summary.values(tables.drawn(runs, 1, "tlcr"), "paper.main")
    assert len(drawn) == 8 and drawn["value"].max() == 5.04


def test_tlcr_is_compared_by_its_overall_score():
    runs = tables.alike(records(tuple(published_rows.ROWS["tlcr"][1].values())))
    assert -1 <= tables.kendall(runs, 1, "Overall", paper="tlcr")["tau"] <= 1


# --- the page of methods ---------------------------------------------------------------------------------------------


def test_the_page_of_methods_has_a_line_for_every_row():
    found = catalogue.catalogue([*records(("sft", "bandit", "segment")), *records(("tlcr",), (0,))]).set_index("name")
    assert list(found.index) == list(METHODS)
    assert found.seeds.to_dict() == dict.fromkeys(METHODS, 0) | {"sft": 3, "bandit": 3, "segment": 3, "tlcr": 1}
    assert found.label.to_dict() == {name: row.label for name, row in METHODS.items()}
    assert found.source.to_dict() == {name: row.source.replace("`", "") for name, row in METHODS.items()}


def test_rows_that_differ_read_differently():
    """Two rows whose lines say the same would hide what an ablation changes."""
    said = [c for c in catalogue.catalogue([]).columns if c not in ("name", "label", "source", "seeds")]
    found = catalogue.catalogue([])
    same = found[found.duplicated(said, keep=False)]
    assert same.empty, f"read alike: {list(same.name)}"
    lines = found.set_index("name")
    assert lines.scorer["tlcr"] == "discriminator, revisions: oracle, error 0.1"
    assert lines.segmentation["segment"] == "entropy, cutoff 1.75, even over tokens"
    assert lines.scorer["segment-as-bandit"] == "bradley-terry, trained with entropy, cutoff 1.75, read as e(x, y)"
    assert lines.trainer["figa"].startswith("figa, alpha 1.0") and lines.segmentation["figa"] == "-"


def test_a_run_at_other_settings_is_no_seed_of_the_row():
    made = [*records(("sft", "bandit", "segment")), *records(("tlcr",), (0,), changes={"lam": 0.95})]
    assert catalogue.catalogue(made).set_index("name").seeds["tlcr"] == 0
