"""The book as a reader gets it, built strictly from the real pages and opened in a browser offline; the runner."""

import functools
import http.server
import os
import re
import shutil
import threading
from collections import namedtuple
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from report.notebooks import ROOT, build_book, run_all, toc_files

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="200" height="80"><rect width="80" height="60" fill="#0072b2"/>'
    '<text x="10" y="76" fill="#000">x</text></svg>'
)
STRIP = '<div class="strip"><span style="background:#fde0d2">wrong</span> <span>right</span></div>'
TABLE = '<table border="1" class="dataframe"><tr><th>method</th></tr><tr><td>bandit</td></tr></table>'


def stand_in(page: str) -> nbformat.NotebookNode:
    """A notebook as a run leaves it: the committed cells where there are any, and outputs of every kind we show."""
    source = ROOT / f"{page}.ipynb"
    cells = nbformat.read(source, as_version=4).cells if source.exists() else [new_markdown_cell(f"# {page}")]
    outputs = [new_output("display_data", {"image/svg+xml": SVG})]
    outputs += [new_output("display_data", {"text/html": html}) for html in (STRIP, TABLE)]
    prose = "".join(path.read_text() for path in (ROOT / "book").glob("*.md"))
    for key in sorted(set(re.findall(rf"{re.escape(page)}\.ipynb::([\w.-]+)", prose))):  # numbers that prose quotes
        prefix = "application/papermill.record/"
        metadata = {"scrapbook": {"name": key, "mime_prefix": prefix}}
        outputs.append(new_output("display_data", {f"{prefix}text/plain": "0.5"}, metadata=metadata))
    shown = rf"{{glue}} ([\w.-]+)\n:doc: \S*{re.escape(page)}\.ipynb"
    for key in sorted(set(re.findall(shown, prose))):  # figures and tables of this page on others
        metadata = {"scrapbook": {"name": key, "mime_prefix": ""}}
        outputs.append(new_output("display_data", {"text/html": TABLE}, metadata=metadata))
    cells.append(new_code_cell("draw()", outputs=outputs, execution_count=1))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The real prose and settings with stand-ins for the executed notebooks, built as `make book` builds."""
    folder = tmp_path_factory.mktemp("book")
    executed = []
    for page in toc_files(ROOT / "_toc.yml"):
        if page.startswith("notebooks/"):
            executed.append(folder / f"{Path(page).name}.ipynb")
            nbformat.write(stand_in(page), executed[-1])
    return build_book(ROOT, executed, folder)


def test_the_strict_build_has_every_page_and_the_landing_page_forwards(html):
    for page in toc_files(ROOT / "_toc.yml"):
        assert (html / f"{page}.html").stat().st_size > 1000, f"{page} is missing or empty"
    assert "book/index.html" in (html / "index.html").read_text()


def test_readers_see_the_outputs_that_the_run_stored(html):
    page = (html / "notebooks" / "comparison.html").read_text()
    assert 'class="strip"' in page and "dataframe" in page
    assert re.search(r'<img [^>]*src="\.\./_images/\w+\.svg"', page), "the figure is not on the page"


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


# --- in a browser ----------------------------------------------------------------------------------------------------

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: the pages were not opened in a browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
Site = namedtuple("Site", "browser url")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site(html):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(html)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield Site(browser, f"http://127.0.0.1:{server.server_port}")
        browser.close()
    server.shutdown()


def visit(site, page, scheme="light"):
    """Opens a page with every other host cut off; returns it with what failed to load and what was asked of others."""
    tab = site.browser.new_page(color_scheme=scheme, viewport={"width": 1200, "height": 900})
    lost, foreign = [], []

    def guard(route):
        if route.request.url.startswith((site.url, "data:", "blob:")):
            route.continue_()
        else:
            foreign.append(route.request.url)
            route.abort()

    tab.route("**/*", guard)
    tab.on("response", lambda response: lost.append(response.url) if response.status >= 400 else None)
    tab.goto(f"{site.url}/{page}.html", wait_until="load")
    if folder := os.environ.get("SCREENSHOTS"):  # SCREENSHOTS=/some/folder pytest ...: look at the pages
        tab.wait_for_timeout(1000)
        tab.screenshot(path=Path(folder) / f"{page.replace('/', '-')}-{scheme}.png")
    return tab, lost, foreign


@pytest.mark.browser
@in_browser
def test_pages_open_with_no_network_and_equations_are_typeset(site):
    typeset = 0
    for page in toc_files(ROOT / "_toc.yml"):
        tab, lost, foreign = visit(site, page)
        assert tab.locator("article h1").first.is_visible(), f"{page} shows no title"
        if wanted := tab.locator(".math").count():
            tab.wait_for_selector("mjx-container", timeout=20_000)
            tab.evaluate("MathJax.startup.promise")
            assert tab.locator("mjx-container").count() >= wanted, f"{page}: raw equations"
            assert tab.locator("mjx-merror").count() == 0, f"{page}: an equation that MathJax cannot read"
            assert tab.evaluate(FONTS), f"{page}: the fonts of the equations did not load"
            typeset += wanted
        images = tab.locator("article img").evaluate_all(
            "all => all.map(i => [i.src, i.complete && i.naturalWidth, i.alt])"
        )
        broken = [source for source, width, _ in images if not width]
        assert not (lost or foreign or broken), f"{page}: lost {lost}, asked of others {foreign}, broken {broken}"
        silent = [source for source, _, alt in images if page.startswith("book/") and not alt]
        assert not silent, f"{page}: figures without a description for readers who cannot see them: {silent}"
        tab.close()
    assert typeset, "the book has no equation, so that nothing was tested"


# WCAG's contrast ratio of an element's text to the nearest opaque background behind it
CONTRAST = """element => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const rgba = colour => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const linear = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const luminance = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
    let ground = [255, 255, 255, 255];
    for (let e = element; e; e = e.parentElement) {
        const colour = rgba(getComputedStyle(e).backgroundColor);
        if (colour[3] > 250) { ground = colour; break; }
    }
    const [a, b] = [luminance(rgba(getComputedStyle(element).color)), luminance(ground)];
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
}"""
FONTS = """document.fonts.ready.then(
    fonts => [...fonts].some(font => font.family.startsWith('MJX') && font.status == 'loaded'))"""


@pytest.mark.browser
@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_strips_tables_and_figures_are_legible(site, scheme):
    tab, _, _ = visit(site, "notebooks/comparison", scheme)
    assert tab.evaluate("document.documentElement.dataset.theme") == scheme
    for selector in ("article h1", ".strip span:last-child", ".strip span:first-child", "table.dataframe td"):
        contrast = tab.locator(selector).first.evaluate(CONTRAST)
        assert contrast >= 4.5, f"{selector} cannot be read in {scheme} mode: contrast {contrast:.1f}"
    style = "image => [getComputedStyle(image).backgroundColor, getComputedStyle(image).filter]"
    card, tint = tab.locator(".cell_output img").first.evaluate(style)
    assert tint == "none", "a filter changes the palette"
    assert scheme == "light" or card == "rgb(255, 255, 255)", "black axes on a dark page"
    tab.close()


# --- the runner ------------------------------------------------------------------------------------------------------


def write(folder: Path, name: str, *code: str) -> Path:
    cells = [new_code_cell('profile: str = "none"  # size of the run', metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(line) for line in code]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def test_notebooks_run_in_order_with_the_profile_and_leave_the_sources_alone(tmp_path, capsys):
    late = write(tmp_path, "late", 'print(open("early.txt").read())')
    early = write(tmp_path, "early", 'open("early.txt", "w").write(f"made at {profile}")')
    before = late.read_bytes()
    run_all([late, early], tmp_path / "out", {"profile": "smoke"}, tmp_path, jobs=2, after={"late": {"early"}})
    said = capsys.readouterr().out
    assert "made at smoke" in (tmp_path / "out" / "late.ipynb").read_text()
    assert late.read_bytes() == before
    assert "papermill early.ipynb out/early.ipynb -k python3 -p profile smoke" in said
    assert re.search(r"late +cell 3/3", said), "no progress was shown"


def test_a_failing_cell_is_shown_its_outputs_are_kept_and_nothing_more_starts(tmp_path, capsys):
    broken = write(tmp_path, "broken", 'print("so far")', 'raise ValueError("unknown profile")')
    after = write(tmp_path, "after", "1")
    with pytest.raises(SystemExit) as stop:
        run_all([broken, after], tmp_path / "out", {"profile": "x"}, tmp_path, jobs=2, after={"after": {"broken"}})
    said = capsys.readouterr().out
    assert stop.value.code == 1
    assert "ValueError: unknown profile" in said and 'raise ValueError("unknown profile")' in said
    assert "so far" in (tmp_path / "out" / "broken.ipynb").read_text()
    assert not (tmp_path / "out" / "after.ipynb").exists()
