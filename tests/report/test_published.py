"""The published tables load, say what the papers say, and hold the misprints that they are marked with."""

import csv
import re
import shutil
from pathlib import Path

import pytest

from report.published import PAPERS, load_published, recomputed_averages

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ROOT.parent / "shared" / "papers"  # the papers' extracted texts lie beside the checkout, or nowhere
PUBLISHED = ROOT / "data" / "published"


@pytest.mark.parametrize("file", sorted(PUBLISHED.glob("*_t*.csv")), ids=lambda file: file.stem)
def test_every_file_loads_whole(file):
    paper, _, kind = file.stem.partition("_")
    frame = load_published(paper, 0 if kind == "text" else int(kind.removeprefix("table")))
    assert len(frame) == len(file.read_text(encoding="utf-8").splitlines()) - 1
    assert frame["value"].notna().sum() == (frame["printed"] != "Adam").sum()


def test_no_table_is_missing():
    frame = load_published()
    tables = {paper: sorted(cells["table"].unique()) for paper, cells in frame.groupby("paper")}
    assert tables == {"segment-ppo": list(range(10)), "adaptive-mask": [0, 1], "tlcr": [0, 1]}


def plain(cell: str) -> str:
    """A label without markup, spaces and citation, so that the text's and the csv's spelling can be compared."""
    return re.sub(r"</?b>|\\text|[$\\{}\s]", "", re.sub(r"\([A-Z][\w ]+ et al\., \d{4}\w?\)", "", cell))


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    if not TEXTS.is_dir():
        pytest.skip("the papers' texts are not beside this checkout")
    names = re.findall(r"\| (\S+\.txt) \| `(\S+)` \|", (TEXTS / "README.md").read_text(encoding="utf-8"))
    return {paper: (TEXTS / file).read_text(encoding="utf-8").split("\n") for file, paper in names}


@pytest.mark.parametrize("paper", PAPERS)
def test_table_rows_are_the_papers(texts, paper):
    """Label and values, in their order and with their bold, are those of one line of the text."""
    lines, group = set(), ""
    for line in texts[paper]:
        cells = line.split("\t")
        if len(cells) < 2:
            continue
        group = plain(cells[0]) or group  # a row under a multi-row label has an empty first cell
        values = [value for cell in cells for value in cell.split(" / ")]
        marked = tuple((re.sub("</?b>", "", value).strip(), "<b>" in value) for value in values)
        for labels in (1, 2):
            lines.add((group, plain(values[labels - 1]) or group, marked[labels:]))
    for (table, row), cells in load_published(paper).query("table > 0").groupby(["table", "row"], sort=False):
        *above, label = map(plain, row.split(" / "))
        printed = tuple(zip(cells["printed"], cells["bold"], strict=True))
        groups = {group for group, name, marked in lines if name == label and marked == printed}
        assert groups, f"{paper} table {table}: no line of the text reads {row}: {list(cells['printed'])}"
        if above and paper == "segment-ppo":  # adaptive-mask's group labels are garbled in the text
            assert above[0] in groups, f"table {table}: {row} stands under {groups}"


@pytest.mark.parametrize("paper", PAPERS)
def test_numbers_from_the_text_are_the_papers(texts, paper):
    """Each stands in a line, of no table, that shares a word with the name we gave it."""
    prose = [line.lower() for line in texts[paper] if line.count("\t") < 2]
    for _, cells in load_published(paper, 0).iterrows():
        number = re.compile(rf"(?<![\d.]){re.escape(cells['printed'])}(?![\d%]|\.\d)")
        words = set(re.findall(r"[a-z]\w+", f"{cells['row'].partition(' / ')[2]} {cells['column']}".lower()))
        found = any(number.search(line) and words & set(re.findall(r"[a-z]\w+", line)) for line in prose)
        assert found, f"{paper}: {cells['printed']} for {cells['row']}, {cells['column']}"


def test_misprints_of_adaptive_mask_table_1():
    frame = load_published("adaptive-mask", 1)
    values = frame.pivot(index="row", columns="column", values="value")
    assert (values.loc["Reasoning / BBH"] == values.loc["Reasoning / HellaSwag"]).all()
    means = recomputed_averages(frame).set_index("label")
    assert len(means) == 7 and not means["within_rounding"].any()
    assert means["printed"].idxmax() == "+ADPO(ours)" and means["recomputed"].idxmax() == "+ARS(ours)"
    ahead = means.loc["+RS"] > means.loc["base"]
    assert not ahead["printed"] and ahead["recomputed"]
    reasons = frame[frame["row"] == "AVG"].set_index("column")["suspected_misprint"]
    assert all(reasons[label].endswith(f"{mean:.4f}") for label, mean in means["recomputed"].items())
    marked = frame[frame["suspected_misprint"] != ""]["row"].unique()
    assert set(marked) == {"Reasoning / BBH", "Reasoning / HellaSwag", "AVG"}
    human_eval = values.loc["Code / HumanEval"]
    assert ((human_eval * 160).round() / 160 - human_eval).abs().max() < 1e-4
    assert ((human_eval * 164).round() / 164 - human_eval).abs().min() > 1e-4


def test_averages_of_the_other_papers():
    means = recomputed_averages(load_published()).query("paper != 'adaptive-mask'")
    assert means.groupby("paper").size().to_dict() == {"segment-ppo": 7, "tlcr": 8}
    assert means.query("not within_rounding")["label"].tolist() == ["FIGA"]


def test_segment_ppo_agrees_with_itself():
    """Values printed in several tables are the same, and bold is the best of its column, over each backbone."""
    frame = load_published("segment-ppo").query("1 <= table <= 7")

    def value(table, row, column):
        return frame.query("table == @table and row == @row and column == @column")["value"].item()

    for column in ("AlpacaEval 2.0 / LC (%)", "AlpacaEval 2.0 / # char", "MT-Bench / GPT-4o"):
        ours = value(1, "Segment (Ours)", column)
        assert ours == value(4, "Ours", column) == value(6, "Even Split (Section 2.3)", column)
        assert ours == value(5, "Regression-based (Section 2.3)", column)
    for column, other in (("MT-Bench", "MT-Bench / GPT-4o"), ("Arena-Hard", "Arena-Hard / WR (%)")):
        for model in ("Phi3.1-mini-SFT", "Llama-3-8B-SFT"):
            ours = value(3, f"{model} / Segment-PPO (Ours)", column)
            assert ours == value(2, f"{model} / Segment (Ours)", other)
    assert value(3, "Phi3-mini Instruct / Segment-PPO (Ours)", "GSM8K") == value(7, "Segment (Ours)", "GSM8K")
    backbone = frame["row"].str.partition(" / ")[0].where(frame["table"].isin([2, 3]), "")
    best = frame.groupby(["table", backbone, "column"])["value"].transform("max")
    assert ((frame["value"] == best) == frame["bold"]).all()


def test_contradictions_are_complete():
    with open(PUBLISHED / "contradictions.csv", newline="", encoding="utf-8") as text:
        rows = list(csv.DictReader(text))
    assert list(rows[0]) == ["one place", "says", "another place", "says there", "our choice", "paper"]
    assert {row["paper"] for row in rows} == set(PAPERS)
    assert all(cell for row in rows for cell in row.values())


@pytest.mark.parametrize(
    "old, new, mend",
    [
        (",14.41,%,14.41,", ",n/a,%,14.41,", "value 'n/a' is no number"),
        (",14.41,%,14.41,", ",14.14,%,14.41,", "value '14.14' is not the printed '14.41'"),
        (",14.41,%,14.41,", ",14.41,%,,", "row, column and printed must not be empty"),
        (",14.41,%,14.41,0,", ",14.41,%,14.41,no,", "bold is 'no'"),
        (",14.41,%,14.41,", ",14,41,%,14.41,", "11 cells, not 10"),
        (
            "segment-ppo,1,Phi3-mini Instruct,AlpacaEval 2.0 / WR",
            "segment-ppo,2,Phi3-mini Instruct,AlpacaEval 2.0 / WR",
            "belong in segment-ppo_table2.csv",
        ),
        ("WR (%),14.41", "LC (%),14.41", "stands above already"),
    ],
)
def test_a_corrupted_line_is_named(tmp_path, monkeypatch, old, new, mend):
    shutil.copytree(PUBLISHED, tmp_path / "data" / "published")
    monkeypatch.setenv("DENSEREWARD_ROOT", str(tmp_path))
    file = tmp_path / "data" / "published" / "segment-ppo_table1.csv"
    lines = file.read_text(encoding="utf-8").split("\n")
    assert old in lines[2]
    lines[2] = lines[2].replace(old, new)
    file.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(f"{file}:3: ") + ".*" + re.escape(mend)):
        load_published("segment-ppo")
    assert len(load_published("tlcr"))  # the other papers still load


@pytest.mark.parametrize("damage", ["missing", "empty", "header alone", "cut", "not UTF-8", "linked to nothing"])
def test_a_table_that_is_not_whole_is_refused_by_its_name(tmp_path, monkeypatch, damage):
    """Loaded without it, every figure and average that rests on it would just show less."""
    shutil.copytree(PUBLISHED, tmp_path / "data" / "published")
    monkeypatch.setenv("DENSEREWARD_ROOT", str(tmp_path))
    file = tmp_path / "data" / "published" / "segment-ppo_table2.csv"
    whole = file.read_bytes()
    parts = {"empty": b"", "header alone": whole.split(b"\n")[0] + b"\n", "not UTF-8": b"\xff\xfe" + whole}
    parts["cut"] = b"\n".join(whole.split(b"\n")[:9]) + b"\n"
    file.unlink()
    if damage in parts:
        file.write_bytes(parts[damage])
    elif damage != "missing":
        file.symlink_to(tmp_path / "nowhere")
    for asked in ((), ("segment-ppo",), ("segment-ppo", 2)):
        with pytest.raises(ValueError, match=f"^{re.escape(str(file))}: .*restore it from the repository"):
            load_published(*asked)
    assert len(load_published("tlcr")) and len(load_published("segment-ppo", 1)), "the others still load"


def test_unknown_papers_and_tables_name_the_known():
    with pytest.raises(ValueError, match="segment-ppo, adaptive-mask, tlcr"):
        load_published("rlhf")
    with pytest.raises(ValueError, match="no tlcr_table7.csv"):
        load_published("tlcr", 7)
