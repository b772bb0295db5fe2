"""What code a stage rests on, for the cache: an edit of it builds the stage anew."""

from densereward.reward import dense, segments
from densereward.text import data, logprobs, models, offsets, sampling, tokens
from densereward.training import settings
from testbed import build, oracle, world

DATA = [data, tokens, world, build, oracle]  # code that makes the data
SCORING = [models, segments, offsets, dense, logprobs, sampling, settings]


def own_code(row) -> list:
    """The boundary function of a row whose segmentation is none of `segments.py`'s."""
    function = segments.BOUNDARIES.get(row.segmentation["kind"])
    return [] if function is None or function.__module__ == segments.__name__ else [function]
