"""A figure once more for a phone: its panels below each other, one column wide, nothing to swipe.

`look.drawing` draws both; `book.css` shows the one that fits. Left out: figures whose ticks along the axis are written
across it, which have as many columns as a page is wide: they scroll."""

import textwrap

from matplotlib.figure import Figure

WIDTH, FITS = 4.6, 4.8  # inches: letters of 9 points keep 9 pixels on a phone; what fits as it is


def stack(figure: Figure) -> bool:
    """Lays out a figure anew, column after column, each panel with the ticks and the unit that it shared with its
    neighbours; whether it could."""
    axes = [ax for ax in figure.axes if ax.get_subplotspec()]
    figure.draw_without_rendering()
    if not axes or figure.get_figwidth() <= FITS:
        return False
    if any(text.get_rotation() for ax in axes for text in ax.get_xticklabels()):
        return False
    at = {ax: ax.get_subplotspec() for ax in axes}
    first = {spec.rowspan.start: ax for ax, spec in at.items() if spec.is_first_col()}
    axes.sort(key=lambda ax: (at[ax].colspan.start, at[ax].rowspan.start))
    tall = figure.get_figheight() / at[axes[0]].get_gridspec().nrows
    figure.set_size_inches(WIDTH, tall * len(axes))
    for place, ax in zip(figure.add_gridspec(len(axes), 1), axes):
        ax.tick_params(labelleft=True, labelbottom=True)
        ax.set_ylabel(ax.get_ylabel() or first[at[ax].rowspan.start].get_ylabel())
        for text, other in zip(ax.get_yticklabels(), first[at[ax].rowspan.start].get_yticklabels()):
            text.set_fontweight(other.get_fontweight())
        ax.set_subplotspec(place)
    for legend in [*figure.legends, *filter(None, (ax.get_legend() for ax in axes))]:
        _fold(figure, legend)
    return True


def wrap(figure: Figure) -> None:
    """Breaks titles and units of axes that leave the figure, or a panel's share of its width."""
    figure.draw_without_rendering()
    for ax in filter(lambda ax: ax.get_subplotspec(), figure.axes):
        for text in (ax._left_title, ax.title, ax._right_title, ax.xaxis.label):
            _wrap(text, figure.bbox.width, figure.bbox.width / ax.get_subplotspec().get_gridspec().ncols)


def _fold(figure: Figure, legend) -> None:
    """A legend of several columns above all panels, in as few columns as fit."""
    if legend._ncols > 1:
        share = figure.bbox.width / legend.get_window_extent().width
        words = [text.get_text() for text in legend.get_texts()]
        look = {"ncols": max(1, int(share * legend._ncols)), "title": legend.get_title().get_text() or None}
        look["fontsize"] = legend.get_texts()[0].get_fontsize()
        legend.remove()
        figure.legend(legend.legend_handles, words, loc="outside upper left", frameon=False, **look)


def _wrap(text, width: float, most: float) -> None:
    box = text.get_window_extent()
    middle = box.x0 + box.width / 2
    room = {"left": width - box.x0, "right": box.x1}.get(text.get_ha(), 2 * min(middle, width - middle))
    room = min(room, most)
    if box.width > room:
        letters = max(map(len, text.get_text().split("\n")))
        text.set_text(textwrap.fill(" ".join(text.get_text().split()), int(letters * room / box.width)))
