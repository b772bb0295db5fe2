"""Strips of tokens as HTML: where segments lie, what each token is paid, which span is worth what.

Like segment-ppo's Figure 2, from real scores. Background colours run from orange (below zero) over the page's ground
to blue (above), a pair that colour-blind readers tell apart, legible in light and dark mode (`look.DARK`); the number
itself is the title of each token. In the book a card of several rows over the same tokens shows one at a time, chosen
by mouse or keys, or all where they are few, and reads its numbers out (`book/_static/strips.js`); rows of several
methods (`of`) are chosen by method and by what they show. Without script all rows are there."""

import html
import re

from IPython.display import HTML

from densereward.text.offsets import token_offsets
from report.look import variable
from study.words import minus
from testbed import oracle

INK, PAPER = "#1b1b1b", "#ffffff"
BELOW, ABOVE = "#ea9f51", "#6fafe1"  # the strongest colours
SEGMENTS = ("#d6e9f8", "#fbe3c6")  # neighbouring segments alternate
SPANS = {  # testbed spans: background, and a mark where the credit alone does not tell the kind
    "correct": ("#bfe3d4", ""),
    "wrong": ("#f6c5ab", ""),
    "not_asked": ("#f3e3b3", ""),
    "repetition": ("#d9d0ea", "↻"),
    "off_topic": ("#e2e2e2", "?"),
    "greeting": ("#ffffff", ""),
    "closing": ("#dceefa", ""),
    "junk": ("#c9c9c9", "✗"),
}
END = "∎"  # the end-of-sequence token, which has no characters


def pieces(tokenizer, ids: list[int]) -> list[str]:
    """The text of each token. A special token shows as an end mark; one that only begins a character shows as
    nothing."""
    text, offsets = token_offsets(tokenizer, ids)
    return [
        text[a:b] or (END if i in tokenizer.all_special_ids else "") for i, (a, b) in zip(ids, offsets, strict=True)
    ]


def visible(text: str) -> str:
    """Control characters but the line feed as their symbols, without which HTML and SVG would be broken."""
    return re.sub(r"[\x00-\x09\x0b-\x1f]", lambda found: chr(0x2400 + ord(found[0])), text)


def tint(value: float, limit: float) -> str:
    """The CSS colour of `value` on a scale from -limit to limit."""
    share = 0.0 if limit == 0 else max(-1.0, min(1.0, value / limit))
    end = variable(ABOVE if share > 0 else BELOW)
    return f"color-mix(in srgb, {end} {abs(share):.0%}, {variable(PAPER)})" if round(share, 2) else PAPER


def _head(name: str, size: float = 0.85) -> str:
    look = f"font-size:{size:g}em;font-weight:600;margin-top:.35rem;"
    return f'<div class="name" style="{look}">{html.escape(name)}</div>'


def _row(name: str, spans: list[str], kind: str = "text") -> str:
    """A heading and its tokens; rows of kind "tokens" over the same text can be shown in turn."""
    look = "white-space:pre-wrap;line-height:1.9;font-family:monospace;"
    return f'<div class="row {kind}">{_head(name)}<div class="strip" style="{look}">{"".join(spans)}</div></div>'


def _span(text: str, colour: str, title: str, first: bool = False, struck: bool = False) -> str:
    text = html.escape(visible(text)).replace("\n", "↵\n")
    ground = variable(colour) if colour.startswith("#") else colour
    look = f"background:{ground};" + (f"border-left:2px solid {variable(INK)};" if first else "")
    look += "text-decoration:line-through;" if struck else ""
    return f'<span style="{look}" title="{html.escape(title)}">{text}</span>'


def segments(name: str, tokens: list[str], ids: list[int]) -> str:
    """One row: tokens coloured by segment, neighbours alternating; `ids` as `segments.segment_ids`, -1 in no
    segment."""
    first = [i == 0 or ids[i] != ids[i - 1] for i in range(len(ids))]
    colours = [PAPER if s < 0 else SEGMENTS[s % 2] for s in ids]
    titles = ["no segment" if s < 0 else f"segment {s + 1} of {max(ids) + 1}" for s in ids]
    return _row(name, [_span(*cell) for cell in zip(tokens, colours, titles, first, strict=True)], "tokens")


def values(name: str, tokens: list[str], numbers, ids: list[int] | None = None, unit: str = "") -> str:
    """One row: tokens coloured by a number each, on a scale to the largest of the row; edges where segments start."""
    numbers = [float(x) for x in numbers][: len(tokens)]
    limit = max(map(abs, numbers))
    first = [bool(ids) and (i == 0 or ids[i] != ids[i - 1]) for i in range(len(tokens))]
    shades = (tint(x, limit) for x in numbers)
    cells = zip(tokens, shades, (minus(f"{x:+.3f}{unit}") for x in numbers), first, strict=True)
    scale = minus(f"full colour at ±{limit:.2g}{unit}, sum {sum(numbers):+.2f}{unit}") if limit else "all 0"
    return _row(f"{name} ({scale})", [_span(*cell) for cell in cells], "tokens")


def masked(name: str, tokens: list[str], kept, states) -> str:
    """One row: what a mask does to each token. Kept ones have the colour of their state (`masks.Masked`: 1 good, -1
    bad), the others are struck through."""
    words = {1: "good", -1: "bad", 0: "neutral"}
    cells = []
    for token, k, state in zip(tokens, kept, map(int, states), strict=True):
        title = f"{words[state]}: {'kept' if k else 'masked'}"
        cells.append(_span(token, tint(state if k else 0, 1), title, struck=not k))
    return _row(f"{name} ({sum(map(bool, kept))} of {len(tokens)} tokens kept)", cells, "tokens")


def spans(prompt: str, text: str, parsed, head: str = "answer") -> str:
    """A testbed prompt and answer: each span coloured by kind, behind it its credit."""
    cells = []
    for s in parsed:
        colour, mark = SPANS[s.kind]
        title = minus(f"{s.kind.replace('_', ' ')}{', misspelt' if s.misspelt else ''}: credit {s.credit:+g}")
        cells += [_span(text[s.start : s.end], colour, title), f"<sub>{mark}{_signed(s.credit)}</sub>"]
    total = sum(s.credit for s in parsed)
    return _row(f"prompt: {prompt}", []) + _row(f"{head}, true return {_signed(total)}", cells)


def _signed(x: float) -> str:
    return minus(f"{round(x, 2):+g}") if round(x, 2) else "0"


def legend(kinds=tuple(SPANS)) -> str:
    """What the colours and marks of `spans` mean."""
    texts = {kind: f" {kind} {SPANS[kind][1]}".replace("_", " ").rstrip() + " " for kind in kinds}
    cells = [_span(text.replace(" ", "\N{NO-BREAK SPACE}"), SPANS[kind][0], kind) for kind, text in texts.items()]
    return _row("kinds of spans", [f"{cell} " for cell in cells])


def dialogue(*messages: dict) -> str:
    """Messages as they stand, one row each."""
    return "".join(_row(m["role"], [_span(m["content"], PAPER, m["role"])]) for m in messages)


def answer(prompt: str, text: str, head: str, testbed: bool) -> str:
    """An answer below its prompt: its spans and their credits on the testbed, else the plain text."""
    if testbed:
        return spans(prompt, text, oracle.parse(prompt, text), head)
    return dialogue({"role": "prompt", "content": prompt}, {"role": head, "content": text})


def given(batch: dict, tokenizer, i: int, testbed: bool) -> str:
    """`answer` for row i of a batch; a prompt of real text with the tokens that mark its turns."""
    ids = {side: batch[f"{side}_ids"][i][batch[f"{side}_mask"][i].bool()].tolist() for side in ("prompt", "completion")}
    prompt = tokenizer.decode(ids["prompt"], skip_special_tokens=testbed)
    return answer(prompt, tokenizer.decode(ids["completion"], skip_special_tokens=True), "answer", testbed)


def row(batch: dict, tokenizer, i: int, *columns) -> tuple[list, ...]:
    """The token texts of completion i of a batch, and its part of each column [B, T]: what the rows above take."""
    length = int(batch["completion_mask"][i].sum())
    ids = batch["completion_ids"][i, :length].tolist()
    return pieces(tokenizer, ids), *(column[i, :length].tolist() for column in columns)


def of(method: str, *rows: str) -> str:
    """Rows of one method, its name above them, on a card of several methods over the same tokens."""
    return f'<div class="of" data-of="{html.escape(method)}">{_head(method, 1)}{"".join(rows)}</div>'


def card(*rows: str) -> HTML:
    """Rows on one card; what colours of `spans` mean stands above them."""
    page = "".join(rows)
    kinds = [kind for kind in SPANS if re.search(rf'title="{kind.replace("_", " ")}(, misspelt)?: credit', page)]
    page = page if not kinds or "kinds of spans" in page else legend(kinds) + page
    style = f"background:{variable(PAPER)};color:{variable(INK)};overflow-x:auto;"
    return HTML(f'<div class="strips" style="{style}">{page}</div>')
