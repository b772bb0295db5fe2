"""The pages of the book in a browser, offline: light and dark, on a laptop and on a phone."""

import functools
import http.server
import os
import shutil
import subprocess
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from report.notebooks import ROOT, toc_files

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: the pages were not opened in a browser")
of_stand_ins = pytest.mark.skipif("BOOK" in os.environ, reason="asks for what the stand-ins say, not an executed book")
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


THEBE = "'THEBE_JS_URL' has already been declared"  # sphinx-thebe writes its settings twice; nothing here uses them


def opened(site, errors: list):
    """A tab with every other host cut off; what fails to load, is asked of others or is said as an error goes to
    `errors`."""
    tab = site.browser.new_page()

    def guard(route):
        if route.request.url.startswith((site.url, "data:", "blob:")):
            route.continue_()
        else:
            errors.append(f"asked of another host: {route.request.url}")
            route.abort()

    tab.route("**/*", guard)
    tab.on("response", lambda response: errors.append(f"lost: {response.url}") if response.status >= 400 else None)
    tab.on("console", lambda said: errors.append(f"console: {said.text}") if said.type == "error" else None)
    tab.on("pageerror", lambda error: None if THEBE in str(error) else errors.append(f"script: {error}"))
    return tab


def looks(tab):
    """Sets the page to light and dark, each in the width of a laptop and of a phone; yields their names. Colours change
    at once: on a busy machine what is read would be half way between the two."""
    tab.add_style_tag(content="*, *::before, *::after { transition: none !important; }")
    for width in (1280, 390):
        tab.set_viewport_size({"width": width, "height": 900})
        for scheme in ("light", "dark"):
            tab.evaluate("scheme => { document.documentElement.dataset.theme = scheme; }", scheme)
            yield f"{scheme}, {width} pixels wide"


@pytest.fixture(scope="module")
def axe():
    """The accessibility checks of axe-core, fetched from the npm registry once."""
    script = ROOT / "runs" / f"axe-core-{AXE}" / "package" / "axe.min.js"
    if not script.exists():
        script.parents[1].mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", f"axe-core@{AXE}", "--silent", "--pack-destination", script.parents[1]]
        try:
            subprocess.run(command, check=True, timeout=60, capture_output=True, cwd=script.parents[1])
            subprocess.run(["tar", "-xzf", f"axe-core-{AXE}.tgz"], check=True, cwd=script.parents[1])
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"axe-core is not there and cannot be fetched: {error}")
    return script.read_text()


AXE = "4.10.3"
SILENT = (
    "all => all.filter(i => !(i.alt || i.ariaLabel || i.role == 'presentation')).map(i => i.outerHTML.slice(0, 200))"
)
LOST = "all => all.filter(i => !(i.complete && i.naturalWidth)).map(i => i.src)"
WIDE = """() => document.documentElement.scrollWidth <= innerWidth ? [] :
    [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)
        .slice(0, 5).map(e => e.outerHTML.slice(0, 120))"""


@pytest.mark.browser
@in_browser
def test_every_page_opens_with_no_network_and_equations_are_typeset(site):
    """Every page, light and dark, on a laptop and on a phone: nothing is lost, runs out of the page or is silent."""
    errors, typeset = [], 0
    tab = opened(site, errors)
    for page in toc_files(ROOT / "_toc.yml"):
        tab.goto(f"{site.url}/{page}.html", wait_until="load")
        assert tab.locator("article h1").first.is_visible(), f"{page} shows no title"
        if wanted := tab.locator(".math").count():
            tab.wait_for_selector("mjx-container", timeout=20_000)
            tab.evaluate("MathJax.startup.promise")
            assert tab.locator("mjx-container").count() >= wanted, f"{page}: raw equations"
            assert tab.locator("mjx-merror").count() == 0, f"{page}: an equation that MathJax cannot read"
            assert tab.evaluate(FONTS), f"{page}: the fonts of the equations did not load"
            typeset += wanted
        for mode in looks(tab):
            wide = tab.evaluate(WIDE)
            assert not wide, f"{page}, {mode}: wider than the screen: {wide}"
            if folder := os.environ.get("SCREENSHOTS"):  # SCREENSHOTS=/some/folder pytest ...: look at the pages
                tab.screenshot(path=Path(folder) / f"{page.replace('/', '-')}, {mode}.png", full_page=True)
        broken = tab.locator("article img").evaluate_all(LOST)
        assert not (errors or broken), f"{page}: {errors}, broken {broken}"
        silent = tab.locator("article :is(img, svg[role=img])").evaluate_all(SILENT)
        assert not silent, f"{page}: figures without a description for readers who cannot see them: {silent}"
    assert typeset, "the book has no equation, so that nothing was tested"
    tab.close()


@pytest.mark.browser
@in_browser
def test_readers_with_assistive_software_or_weak_eyes_can_use_every_page(site, axe):
    """WCAG A and AA as axe-core checks them, sidebar and all: a page of each kind in all four looks, each other page of
    a book that is there light on a laptop and dark on a phone."""
    tab, found = opened(site, []), []
    for page in toc_files(ROOT / "_toc.yml") if "BOOK" in os.environ else AUDITED:
        tab.goto(f"{site.url}/{page}.html", wait_until="load")
        tab.evaluate(axe)
        for mode in looks(tab):
            if mode.startswith(("light, 1280", "dark, 390")) or page in AUDITED:
                found += [f"{page}, {mode}: {line}" for line in tab.evaluate(AUDIT)]
    tab.close()
    assert not found, "\n".join(found)


AUDIT = """() => axe.run(
    {exclude: ['mjx-container', '.highlight']},
    {runOnly: ['wcag2a', 'wcag2aa'], resultTypes: ['violations']},
).then(result => result.violations.flatMap(v => v.nodes.slice(0, 3).map(
    n => `${v.id}: ${n.html.slice(0, 160)} ${n.failureSummary}`)))"""
AUDITED = ("book/index", "book/published", "book/library", "book/references", "notebooks/comparison")
AUDITED += ("notebooks/segment_ppo", "notebooks/side_by_side")  # strips


@pytest.mark.browser
@in_browser
@of_stand_ins
def test_a_strip_shows_one_row_at_a_time_and_reads_its_values_to_keys(site):
    errors = []
    tab = opened(site, errors)
    tab.goto(f"{site.url}/notebooks/segment_ppo.html", wait_until="load")
    card = tab.locator(".strips").first
    shown = card.locator(".row.tokens:visible .name")
    assert shown.count() == 2, "few rows stand below each other"
    card.get_by_role("radio", name="rewards").check()
    assert shown.all_inner_texts() == ["rewards (full colour at ±1, sum +0.50)"]
    tab.keyboard.press("ArrowRight")
    assert shown.all_inner_texts() == ["advantages (full colour at ±2, sum −3.00)"]
    card.locator(".row.tokens:visible .strip").focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert card.locator(".said").inner_text() == "right : −1.000"
    card.get_by_role("radio", name="all").check()
    assert shown.count() == 2 and not errors
    tab.close()


VIEWS = ("rewards", "advantages", "mask", "edit labels", "true credit")


@pytest.mark.browser
@in_browser
@of_stand_ins
def test_one_answer_is_shown_under_the_method_and_the_view_that_a_reader_chooses(site):
    errors = []
    tab = opened(site, errors)
    tab.goto(f"{site.url}/notebooks/side_by_side.html", wait_until="load")
    card = tab.locator(".strips:has(.of)")
    said, strip = card.locator(".said"), card.locator(".row.tokens:visible .strip")
    method, view = (card.get_by_role("group", name=name, exact=True) for name in ("Method", "Show"))
    assert view.get_by_role("radio").count() == len(VIEWS) + 1, "and all"
    strip.focus()
    tab.keyboard.press("ArrowRight")
    read = {}
    for name in ("TLCR", "Bandit (sequence)"):
        method.get_by_role("radio", name=name).check()
        for shown in VIEWS[:3]:
            view.get_by_role("radio", name=shown).check()
            read[name, shown] = said.inner_text().removeprefix("wrong : ")
            assert strip.get_attribute("aria-label").startswith(f"{name}: {shown} ("), "software reads which row it is"
    assert [*read.values()] == ["−3.000", "−6.000", "bad: kept", "−1.000", "−2.000", "bad: kept"]
    view.get_by_role("radio", name="mask").focus()
    tab.keyboard.press("ArrowRight")
    assert said.inner_text() == "wrong : −1.000" and strip.count() == 1
    assert method.get_by_role("radio").first.is_disabled(), "edits are of no method"
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert strip.count() == 5, "all of one method"
    method.get_by_role("radio", name="all").check()
    assert strip.count() == 8 and not errors
    tab.close()


@pytest.mark.browser
@in_browser
@of_stand_ins
def test_without_script_every_view_of_the_answer_stands_below_its_method(site):
    tab = site.browser.new_context(java_script_enabled=False).new_page()
    tab.goto(f"{site.url}/notebooks/side_by_side.html", wait_until="load")
    card = tab.locator(".strips:has(.of)")
    assert card.locator(".row.tokens:visible").count() == 8 and card.get_by_role("radio").count() == 0
    told = card.locator(".of", has_text="TLCR").locator(".row").nth(1)
    assert told.is_visible() and told.locator("span").first.get_attribute("title") == "−6.000"
    tab.context.close()


@pytest.mark.browser
@in_browser
@of_stand_ins
def test_a_curve_reads_its_nearest_point_to_pointer_and_keys(site):
    errors = []
    tab = opened(site, errors)
    tab.goto(f"{site.url}/notebooks/comparison.html", wait_until="load")
    plate = tab.locator(".plate").first
    svg, tip = plate.locator("svg.page"), plate.locator(".tip").first
    assert tip.is_hidden() and svg.locator("[data-line] title").count() == 0
    svg.focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert tip.inner_text() == "Bandit (sequence): 1, 2"  # x, y
    box = svg.bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert tip.is_hidden(), "the middle of the line is no point that was drawn"
    ring = svg.locator("circle").last
    spot = ring.evaluate(
        "e => { const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }"
    )
    tab.mouse.move(*spot)
    assert tip.is_visible() and not errors
    tab.close()


@pytest.mark.browser
@in_browser
@of_stand_ins
def test_the_map_is_shown_by_the_axes_that_a_reader_chooses(site):
    errors = []
    tab = opened(site, errors)
    tab.goto(f"{site.url}/notebooks/density_map.html", wait_until="load")
    box = tab.locator(".axes").first
    said, sheet = box.locator("output"), box.locator("tbody tr")
    assert said.inner_text().startswith("Truth in time, less bandit: true return")
    assert "averaged over preference pairs" in said.inner_text()
    assert sheet.nth(0).inner_text().split() == "one kind +2.00 +2.00 to +2.00 +1.20 +1.20 to +1.20".split() + [
        *"+1.00 +1.00 to +1.00 +0.80 +0.80 to +0.80".split()
    ]
    box.get_by_role("radio").first.focus()
    for _ in range(3):  # to the fourth gain
        tab.keyboard.press("ArrowRight")
    down = box.get_by_role("combobox", name="down")
    down.focus()
    down.select_option(label="price of an item too many (credit)")  # it ran across: the two change places
    assert box.get_by_role("combobox", name="across").locator("option:checked").inner_text() == "horizon"
    assert sheet.nth(0).inner_text().split()[:2] == ["−1", "−4.00"] and sheet.count() == 4
    box.get_by_role("combobox", name="across").select_option(label="λ of GAE")
    held = box.get_by_role("combobox", name="horizon")
    held.select_option(label="two kinds")
    assert (
        said.inner_text().startswith("Tokens, less bandit")
        and "horizon two kinds; averaged over preference" in said.inner_text()
    )
    assert box.get_by_role("combobox", name="λ of GAE").count() == 0, "an axis that is shown is not held"
    for mode in looks(tab):
        for cell in (
            box.locator("td span").first,
            box.locator("td small").last,
            said,
            down,
            box.locator(".key span").last,
        ):
            assert cell.evaluate(CONTRAST) >= 4.5, f"the map cannot be read, {mode}"
    assert not errors
    tab.close()


@pytest.mark.browser
@in_browser
def test_without_script_the_map_by_chosen_axes_leaves_no_trace(site):
    tab = site.browser.new_context(java_script_enabled=False).new_page()
    tab.goto(f"{site.url}/notebooks/density_map.html", wait_until="load")
    assert tab.locator(".axes").first.is_hidden() and tab.locator(".plate svg").first.is_visible()
    tab.context.close()


@pytest.mark.browser
@in_browser
def test_a_phone_shows_letters_of_figures_large_enough_and_rows_of_tables_as_blocks(site):
    """A figure fits as it is drawn for a phone, once; a cell of a table in Markdown has the page's width."""
    tab = opened(site, [])
    tab.set_viewport_size({"width": 390, "height": 900})
    tab.goto(f"{site.url}/notebooks/comparison.html", wait_until="load")
    plate = tab.locator(".plate").first
    assert plate.locator("svg:visible").get_attribute("class") == "phone"
    assert plate.locator("svg:visible text").first.evaluate(LETTER) >= 9
    assert plate.evaluate("e => e.scrollWidth <= e.clientWidth")
    tab.goto(f"{site.url}/book/deviations.html", wait_until="load")
    cell = tab.locator("article table.table td:nth-child(2)").first
    assert cell.evaluate("e => getComputedStyle(e, '::before').content").startswith('"paper')
    assert cell.bounding_box()["width"] > 300
    tab.set_viewport_size({"width": 1280, "height": 900})
    assert cell.evaluate("e => getComputedStyle(e, '::before').content") == "none"
    tab.close()


LETTER = "e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a"
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
@of_stand_ins
def test_text_strips_tables_and_figures_are_legible(site):
    tab = opened(site, [])
    tab.goto(f"{site.url}/notebooks/comparison.html", wait_until="load")
    strip = ".row:not([hidden]) .strip"
    for mode in looks(tab):
        for selector in ("article h1", f"{strip} span:last-child", f"{strip} span:first-child", ".sheet td"):
            contrast = tab.locator(selector).first.evaluate(CONTRAST)
            assert contrast >= 4.5, f"{selector} cannot be read, {mode}: contrast {contrast:.1f}"
        ground, line = tab.locator(".plate svg").first.evaluate(DRAWN)
        assert (ground == "rgb(255, 255, 255)") == ("light" in mode), f"a figure on the other mode's ground, {mode}"
        assert line != ground, f"a line that cannot be seen, {mode}"
    tab.close()


DRAWN = """svg => [svg.querySelector('path'), svg.querySelector('path[style*="--c0072b2"]')].map((path, i) =>
    getComputedStyle(path)[i ? 'stroke' : 'fill'])"""
