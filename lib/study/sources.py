"""What code a stage rests on, for the cache: an edit of it builds the stage anew."""

from densereward.reward import dense, implicit, segments
from densereward.text import data, logprobs, models, offsets, sampling, tokens
from densereward.training import settings
from testbed import build, oracle, world

DATA = [data, tokens, world, build, oracle]  # code that makes the data
SCORING = [models, segments, offsets, dense, logprobs, sampling, settings]


def own_code(row) -> list:
    """What this row alone rests on: its boundary function where it is none of `segments.py`'s, `implicit.py`."""
    function = segments.BOUNDARIES.get(row.segmentation["kind"])
    own = [] if function is None or function.__module__ == segments.__name__ else [function]
    return [*own, implicit] if row.scorer == "dpo" else own
