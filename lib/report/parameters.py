"""A notebook's parameters, checked and turned into what it runs on, before anything is trained.

A parameters cell is a list of typed, commented assignments. `start(globals())` reads it back, so that a misspelt name,
a wrong type, an unknown profile or a value out of range stops the notebook with one line. What a value may be is said
where the study takes it from: in `Run`, `Profile` and `checked.Asked`. Left out: lists.
"""

import ast
from pathlib import Path

from densereward.checked import DATASET, Asked, Integer, Line, Number, Yes, check, type_of
from densereward.reward.masks import DECISIONS
from densereward.text import models
from densereward.text.formats import is_hub_name
from report import show
from study import engines, scale
from study.backbones import BACKBONES
from study.identity import RESULTS_0_1, check_record
from study.measures import granularity
from study.methods import Method, method
from study.profiles import Profile, profile
from study.records import ROOT, read_records
from study.run import Run, reads_truth

KINDS = {"str": Line, "int": Integer, "float": Number, "bool": Yes}
HOW = ("columns", "engine", "processes", "report_to")  # fields of a run that few notebooks take
CHECKS = {  # of texts that stand for more
    "profile": profile,
    **dict.fromkeys(("methods", "against", "baseline"), lambda text: [method(name) for name in names(text)]),
    "noises": granularity.levels,
}
EMPTY = ("model", "columns", "results", "before", "llm")  # texts that may be empty; None is the same


class BadParameter(ValueError):
    """A parameter that cannot be used. IPython prints it as one line, without a traceback."""

    def _render_traceback_(self):
        return [f"ValueError: {self}"]


def parameters(namespace: dict) -> dict:
    """The parameters of a running notebook with their present values; `namespace` is its globals().

    Declared are the annotated assignments of its cells; papermill's cell starts with "# Parameters". None is the
    profile's value where it has one, and an empty text where that has a meaning. Raises BadParameter for a name that is
    not declared (papermill only warns), a value of another type, or one out of range."""
    declared, injected = {}, []
    for cell in namespace["In"]:
        try:
            body = ast.parse(cell).body
        except SyntaxError:  # typed by hand earlier in the session
            continue
        typed = [n for n in body if isinstance(n, ast.AnnAssign) and ast.unparse(n.annotation) in KINDS]
        declared |= {ast.unparse(n.target): ast.unparse(n.annotation) for n in typed}
        if cell.startswith("# Parameters"):
            injected += [ast.unparse(n.targets[0]) for n in body if isinstance(n, ast.Assign)]
    if unknown := [name for name in injected if name not in declared]:
        raise BadParameter(f"unknown parameter {unknown[0]!r}; this notebook takes {', '.join(declared)}")
    namespace.update({name: "" for name in declared if name in EMPTY and namespace[name] is None})
    values = {name: namespace[name] for name in declared}
    for name, value in values.items():
        if not (value is None and name in Profile.__dataclass_fields__) and not (value == "" and name in EMPTY):
            try:
                known = None if name == "profile" else type_of(name, Run, Profile, Asked)  # a name, no Profile
                check(name, value, known or KINDS[declared[name]])
                CHECKS.get(name, lambda value: None)(value)
            except ValueError as error:
                raise BadParameter(str(error)) from None
    return values


def start(namespace: dict, trains: bool = True) -> Run:
    """The run that a notebook's parameters ask for: profile (with every parameter that is a field of it and not None),
    seed, dataset, model. Says on the page if it is no evidence; a notebook that trains nothing where scorers are
    committed (`trains` False) says it once it knows where they come from (`show.measured`). Raises BadParameter."""
    given = parameters(namespace)
    try:
        changes = {k: v for k, v in given.items() if k in Profile.__dataclass_fields__ and v is not None}
        row = profile(given["profile"], given["dataset"], **changes)
        if "method" in given:
            _check(method(given["method"]), given["dataset"])
        if given.get("decision", "threshold") not in DECISIONS:
            raise ValueError(f"unknown decision {given['decision']!r:.80}; choose one of {', '.join(DECISIONS)}")
        for name in names(given["methods"]) or [""] if "methods" in given else ():
            if method(name).scorer != "bradley-terry":
                raise ValueError(f"method {name!r} has no reward model; choose bandit, token, segment or random")
        how = {name: given[name] for name in HOW if name in given}
        run = Run(row, given["seed"], _dataset(given["dataset"]), _model(given["model"]), **how)
        engines.check(run)
        if run.model and not given.get("dry_run"):
            models.check_length(run.model, row.max_prompt_length + row.max_completion_length)
        run = scale.toy(run) if given.get("dry_run") else scale.provided(run)
    except ValueError as error:
        raise BadParameter(str(error)) from None
    if row.name in BACKBONES:
        print("\n".join(scale.memory(row.name)))
    if given.get("dry_run"):
        show.banner("A dry run: one update of every stage, at toy width. Its numbers say nothing about any method.")
    elif row.name == "smoke" and trains:
        show.banner(
            f"Profile smoke checks that everything runs: {row.pairs} preference pairs, {row.rounds} rollout batches of "
            f"{row.rollouts}, one seed. Its numbers say nothing about any method."
        )
    return run


def results(namespace: dict, which: str = "results", needed: bool = True) -> tuple[list[dict], str]:
    """(records, where they lie) that the comparison's parameters ask for, the folder by the one called `which`; says so
    where there are none yet. Raises BadParameter for a folder that was asked for and does not exist, if `needed`."""
    given = parameters(namespace)
    try:
        row = profile(given["profile"])
    except ValueError as error:
        raise BadParameter(str(error)) from None
    name = given[which] or ("brief" if row.name == "smoke" else row.name)  # smoke has no records of its own
    path = next((p for p in (ROOT / "data" / "results" / name, Path(name).expanduser()) if p.exists()), None)
    if path is None and given[which] and needed:
        raise BadParameter(
            f"{which} {name!r} is no folder below data/results and no path; leave it empty for the profile's own"
        )
    datasets = {given["dataset"]}  # as the study was given it; a record may name what is not on this machine
    if Path(given["dataset"]).expanduser().exists() or (ROOT / given["dataset"]).exists():
        datasets.add(_dataset(given["dataset"]))
    models = {given["model"] or None, _model(given["model"])}
    try:
        every = read_records(path, check_record) if path else []
    except FileNotFoundError:
        raise BadParameter(f"{which} {name!r} has no .jsonl file; name one with records of the study") from None
    except ValueError as error:
        raise BadParameter(str(error)) from None
    records = [r for r in every if r.get("dataset", "testbed") in datasets and r["params"].get("model") in models]
    if not records:
        what = f"dataset {given['dataset']}" + (f" and model {given['model']}" if given["model"] else "")
        show.note(f"**No records of {what} in data/results/{name}.** The study writes them; nothing is drawn below.")
        return [], ""
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    inside = [file.relative_to(ROOT) for file in files if file.is_relative_to(ROOT)]
    links = ", ".join(f"[{file}](../{file})" for file in inside) or f"{len(files)} files of {name}"
    show.note(f"{len(records)} records: {links}.")
    if Path(name).name == RESULTS_0_1:
        show.banner(
            f"The records of data/results/{RESULTS_0_1} are of version 0.1, whose instrument was unfair: rewards paid "
            "before the token that decides them, rewards of rows on different scales, a tiny model that could not "
            "remember what it had named, pairs filtered by length, a mask whose preferred share drifted. Conclusions "
            "from them do not stand; the comparison has been measured again."
        )
        show.note("More on each: [What we got wrong](../book/what_we_got_wrong.md).")
    if any(r["profile"] == "smoke" for r in records):
        show.banner("Some of these records are of profile smoke, which only checks that everything runs.")
    return records, f"Data: {Path('data/results', name) if inside else name}{show.made_by(records)}."


def names(text: str) -> list[str]:
    """Names of a comma-separated list, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def known_methods(asked: list[str]) -> None:
    """Raises BadParameter for a method that is no row of `methods.py`."""
    try:
        for name in asked:
            method(name)
    except ValueError as error:
        raise BadParameter(str(error)) from None


def _check(row: Method, dataset: str) -> None:
    if row.trainer != "ppo":
        what = (
            "trains nothing"
            if row.trainer == "none"
            else f"is trained by {row.trainer.upper()}, without rewards per token"
        )
        raise ValueError(f"method {row.name!r} {what}; choose one with a reward")
    if dataset != "testbed" and reads_truth(row):
        raise ValueError(
            f"method {row.name!r} reads the testbed's truth, and {dataset} has none; choose another method"
        )


def _dataset(name: str) -> str:
    if name == "testbed":
        return name
    for path in (Path(name).expanduser(), ROOT / name):  # files are named from the root in a notebook's folder, too
        if path.exists():
            return str(path.resolve())
    if is_hub_name(name):
        return name
    raise BadParameter(f"dataset {name!r} does not exist; give {DATASET}")


def _model(name: str) -> str | None:
    for path in (Path(name).expanduser(), ROOT / name) if name else ():
        if path.exists():
            return str(path.resolve())
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise BadParameter(
            f"model {name!r} does not exist; give the folder of a saved causal LM, or a hub name (owner/name)"
        )
    return name or None
