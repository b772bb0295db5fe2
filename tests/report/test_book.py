"""The book as a reader gets it, built strictly from the real pages."""

import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml

from report.notebooks import ROOT, build_book, toc_files


def test_the_strict_build_has_every_page_and_the_landing_page_forwards(html):
    for page in toc_files(ROOT / "_toc.yml"):
        assert (html / f"{page}.html").stat().st_size > 1000, f"{page} is missing or empty"
    assert "book/index.html" in (html / "index.html").read_text()


def test_a_link_to_a_page_shows_its_title_and_first_paragraph_elsewhere(html):
    page = (html / "book" / "library.html").read_text()
    told = dict(re.findall(r'<meta property="og:(\w+)" content="([^"]*)" />', page.replace("\n", " ")))
    assert told["title"].startswith("Dense rewards on today") and "<" not in told["description"], told
    assert told["description"].startswith(re.search(r"^[A-Z][\w ]+", LIBRARY.partition("\n\n")[2])[0]), told


def test_a_link_to_the_landing_page_shows_the_map_of_the_executed_notebook(html):
    """Services that show links take no SVG and no relative address."""
    page = (html / "book" / "index.html").read_text()
    told = dict(re.findall(r'<meta property="og:([\w:]+)" content="([^"]*)" />', page.replace("\n", " ")))
    base = yaml.safe_load((ROOT / "_config.yml").read_text())["html"]["baseurl"]
    assert told["url"] == f"{base}/book/index.html" and told["image"].startswith(f"{base}/"), told
    picture = (html / told["image"].removeprefix(f"{base}/")).read_bytes()
    size = [str(int.from_bytes(picture[i : i + 4])) for i in (16, 20)]
    assert picture[:4] == b"\x89PNG" and size == [told["image:width"], told["image:height"]]
    assert told["title"] == told["site_name"] == "Dense Rewards, Side by Side"
    assert told["description"].startswith("How fine should a reward")


LIBRARY = (ROOT / "book" / "library.md").read_text()


def test_readers_see_the_outputs_that_the_run_stored(html):
    page = (html / "notebooks" / "comparison.html").read_text()
    assert 'class="strip"' in page and 'class="sheet' in page and "<figcaption>" in page
    assert re.search(r'<img [^>]*src="\.\./_images/\w+\.svg"', page), "the figure is not on the page"


class Links(HTMLParser):
    """What a page links to, and the names that can be linked to in it."""

    def __init__(self, text: str):
        super().__init__()
        self.to, self.names = set(), {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("href", "src") and value and not re.match(r"(https?|data|mailto|javascript):", value):
                self.to.add(value)
            if name in ("id", "name") and value:
                self.names.add(value)


def test_every_link_within_the_book_leads_somewhere(html):
    pages = {path: Links(path.read_text()) for path in html.rglob("*.html") if "_static" not in path.parts}
    dead = []
    for page, links in pages.items():
        for link in links.to:
            parts = urlsplit(link)
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.exists() or (target in pages and unquote(parts.fragment) not in pages[target].names):
                dead.append(f"{page.relative_to(html)}: {link}")
    assert len(pages) > 30 and not dead, "\n".join(dead)


def test_the_card_of_the_records_names_every_file_and_the_citation_names_the_papers():
    folder = ROOT / "data" / "results"
    card = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    named = {config["data_files"] for config in card["configs"]}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.jsonl")}
    assert named == {name for name in found if not name.startswith("smoke/")}, "smoke's are a reader's own"
    page = (ROOT / "book" / "reproducibility.md").read_text()
    assert set(re.findall(r"{download}`[^<`]* <../data/results/([^>]*)>`", page)) == named, "not there to download"
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    papers = re.sub(r"[{}]", "", (ROOT / "book" / "references.bib").read_text())
    assert len(cited["references"]) == 3 and all(paper["title"] in papers for paper in cited["references"])


def tiny_book(folder: Path, prose: str, toc: str) -> Path:
    for name in ("book", "data", "examples", "lib"):
        (folder / name).mkdir(parents=True)
    (folder / "_config.yml").write_text('title: t\nonly_build_toc_files: true\nexecute: {execute_notebooks: "off"}\n')
    (folder / "_toc.yml").write_text(toc)
    (folder / "book" / "index.md").write_text(prose)
    return folder


@pytest.mark.parametrize(
    "prose, toc",
    [
        ("# Hi\n\n[broken](no_such_page.md)\n", "format: jb-book\nroot: book/index\n"),
        ("# Hi\n", "format: jb-book\nroot: book/index\nchapters:\n  - file: notebooks/not_executed\n"),
    ],
    ids=["a broken link", "a page that is not there"],
)
def test_a_defect_fails_the_build(tmp_path, prose, toc):
    with pytest.raises(SystemExit) as stop:
        build_book(tiny_book(tmp_path, prose, toc), [], tmp_path)
    assert stop.value.code


REPOSITORY = "https://github.com/dense-rewards/side-by-side/blob/main/"
CHAPTERS = ("segment_ppo_tables", "adaptive_masks", "tlcr")


def test_links_to_code_name_files_and_symbols_that_exist():
    """[`module.symbol`](file) is a function, class, method or constant of that file."""
    dead, symbols = [], 0
    for page in (ROOT / "book").glob("*.md"):
        for text, path in re.findall(rf"\[([^\]]*)\]\({REPOSITORY}([^)#]*)", page.read_text()):
            file = ROOT / path
            if not file.exists():
                dead.append(f"{page.name}: {path}")
            elif named := re.fullmatch(r"`(\w+)\.(\w+)`", text):
                symbols += 1
                defined = re.search(rf"^ *(def|class) {named[2]}\b|^{named[2]}\b.* = ", file.read_text(), re.M)
                if named[1] != file.stem or not defined:
                    dead.append(f"{page.name}: {text} is not in {path}")
    assert symbols > 5 and not dead, "\n".join(dead)


def test_the_papers_chapters_have_one_shape():
    """What it found, the idea with its drawing, equations and lines, what was run, what held, deviations, tables."""
    shape = ["The idea", "From equations to lines", "What was run", "What held, what did not, and why", "Deviations"]
    for chapter, paper in zip(CHAPTERS, ("segment-ppo", "adaptive-mask", "tlcr"), strict=True):
        text = (ROOT / "book" / f"{chapter}.md").read_text()
        heads = re.findall(r"^## (.*)$", text, re.M)
        assert [head.split(" and ")[0].split(",")[0] for head in heads[:3]] == shape[:3]
        assert heads[3] == shape[3] and heads[4].startswith(shape[4]) and heads[5].startswith("Its tables")
        assert text.startswith(f"# {paper}: "), chapter
        for key in ("idea", f"ran_{paper}", f"ledger_sentence_{paper}", f"decided_{paper}"):
            assert f"{{glue}} {key}\n" in text, f"{chapter} does not show {key}"


def test_every_notebook_opens_with_words_leads_to_a_chapter_and_has_a_name_of_its_own():
    heads = {path: nbformat.read(path, as_version=4).cells[0].source for path in (ROOT / "notebooks").glob("*.ipynb")}
    for path, text in heads.items():
        title, found, rest = text.split("\n\n", 2)
        assert title.startswith("# ") and re.search(r"\.\s", found) and "](../book/" in rest, path.name
    titles = [text.partition("\n")[0] for text in heads.values()]
    titles += [path.read_text().partition("\n")[0] for path in (ROOT / "book").glob("*.md")]
    assert len(set(titles)) == len(titles)


def test_links_to_record_files_are_resolved_by_the_book():
    """Sphinx reads an output's markdown only where the cell says that it is MyST; else a link stays a dead path."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and "parameters.results(" in cell.source:
                assert cell.metadata.get("mystnb") == {"markdown_format": "myst"}, f"{path.name}, {cell.id}"
