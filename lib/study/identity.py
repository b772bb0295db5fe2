"""Which runs are the same: what a record keeps of its settings, and how two of them compare.

A record outlives the code that wrote it. A setting that was added later counts, in an older record, as the default it
got; names of figures and sources are no setting.
"""

import json
from dataclasses import MISSING, asdict, fields
from types import SimpleNamespace

from densereward.canonical import canonical
from study.methods import METHODS, Method
from study.profiles import Profile
from testbed.world import World

TUNED = (
    "kl_coef",
    "actor_learning_rate",
    "dpo_beta",
    "dpo_learning_rate",
    "online_dpo_beta",
    "online_learning_rate",
)  # what `tuning.py` may choose for a method
# The folder below data/results in which the records of version 0.1 lie.
RESULTS_0_1 = "cpu-0.1"


def of_testbed(profile: Profile, row: Method) -> dict:
    """`parameters` of a run on the testbed, with the tiny model."""
    given = {"profile": profile, "row": row, "model": None, "contrast": 0.0, "renamed": None}
    return parameters(SimpleNamespace(**given, tuned=False, shares=None, content=None))


def parameters(run) -> dict:
    """Everything that tells two runs of a seed apart, in JSON's types."""
    given = {"method": asdict(run.row), "profile": run.profile.to_dict(), "model": run.model, "contrast": run.contrast}
    given |= {"tuned": run.tuned, "shares": run.shares, "content": run.content}  # None also in records that are older
    given |= {"columns": run.renamed} if run.renamed else {}
    return json.loads(json.dumps(given))


def check_record(record: dict) -> None:
    """Raises ValueError, KeyError or TypeError for what is no record of the study or of tuning."""
    kinds = {"kind": str, "method": str, "profile": str, "seed": int, "params": dict}
    if bad := [name for name, kind in kinds.items() if not isinstance(record.get(name), kind)]:
        raise ValueError(f"{bad[0]} is {record.get(bad[0])!r:.40}")
    if record["kind"] == "run":
        completed(record["params"])


def completed(params: dict) -> dict:
    """Recorded parameters with the defaults of settings that are younger than the record."""
    profile = _complete(Profile, params["profile"])
    profile["world"] = _complete(World, profile["world"])
    rest = {"method": _method(params["method"]), "profile": profile}
    return {"contrast": 0.0, "model": None, "tuned": False, "shares": None, "content": None, **params, **rest}


def settings(params: dict) -> dict:
    """What a run shares with all methods of its comparison: its completed parameters without the method, and without
    what was tuned for each method."""
    rest = {name: value for name, value in completed(params).items() if name != "method"}
    if rest["tuned"]:
        rest["profile"] = {name: value for name, value in rest["profile"].items() if name not in TUNED}
    return rest


def same(one: dict, other: dict) -> bool:
    """Whether two records' parameters are those of one run."""
    return canonical(completed(one)) == canonical(completed(other))


def same_method(one: dict, other: dict) -> bool:
    """Whether two rows, as dicts, are one method."""
    return canonical(_method(one)) == canonical(_method(other))


def as_listed(params: dict) -> bool:
    """Whether the run's method is the row of that name in `methods.py`; a name that it lacks is a reader's own."""
    row = METHODS.get(params["method"]["name"])
    return row is None or same_method(params["method"], listed(row, params))


def listed(row: Method, params: dict) -> dict:
    """The row as it was when a record with these parameters was made."""
    return _row_then(asdict(row)) if of_0_1(params) else asdict(row)


def of_0_1(params: dict) -> bool:
    """Whether a record is of version 0.1: its world did not yet say how often dialogues for fine-tuning repeat."""
    return "sft_repeats" not in params["profile"]["world"]


def _row_then(row: dict) -> dict:
    """A row as version 0.1 had it: no scale, no evaluator's score, no pay where it is decided, no mask by the round."""
    row = row | {"scale": "none", "scores": "head"}
    row["interpolation"] = "even" if row["interpolation"] == "decided" else row["interpolation"]
    kept = {name: x for name, x in (row["mask"] or {}).items() if x not in ("round", "group")}
    return row | {"mask": kept or None}


def _method(row: dict) -> dict:
    return {name: x for name, x in _complete(Method, row).items() if name not in ("label", "source")}


def _complete(kind: type, given: dict) -> dict:
    """Recorded settings with the defaults of fields that they lack; 1 counts as 1.0 where the default is a float."""
    known = _defaults(kind)
    floats = {name for name, x in known.items() if isinstance(x, float)}
    return {name: float(x) if name in floats and type(x) is int else x for name, x in (known | given).items()}


def _defaults(kind: type) -> dict:
    found = {}
    for f in fields(kind):
        if f.default is not MISSING:
            found[f.name] = f.default
        elif f.default_factory is not MISSING:
            found[f.name] = f.default_factory()
    return found
