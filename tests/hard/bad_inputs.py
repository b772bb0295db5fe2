"""What people give that cannot be: tables of it, and what may be said of it.

An input is refused well if one error of one type says in one line what is wrong and what to do, before any work. Each
function below yields (what was given, a call that takes it); the call may also find that it can be used.
"""

import io
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import nbformat
from typer.testing import CliRunner

from densereward import checked
from report import parameters
from report.notebooks import ROOT
from study.profiles import Profile, profile

Given = Iterator[tuple[str, Callable[[], object]]]
MENDS = (  # the words with which a mend begins
    *("give", "choose", "write", "run", "mend", "remove", "restore", "save", "set", "make", "use", "add", "name"),
    *("leave", "lower", "raise", "fetch", "take", "move", "wait", "replace", "rename", "unset", "resize", "train"),
    *(
        "declare",
        "say",
        "start",
        "is none of",
        "it has",
        "it holds",
        "there is",
        "this notebook takes",
        "needs",
        "only",
    ),
)


class Unclear(AssertionError):
    """An input that was refused in another way."""


def said(call: Callable[[], object]) -> str | None:
    """The one line that refuses an input; None where it was taken. Raises Unclear."""
    try:
        with redirect_stdout(io.StringIO()):
            call()
    except (ValueError, FileNotFoundError) as error:
        line = str(error)
        if type(error) not in (ValueError, parameters.BadParameter, FileNotFoundError):
            raise Unclear(f"{type(error).__name__}: {line:.300}") from error
    except Refused as error:
        line = str(error)
    except Exception as error:
        raise Unclear(f"{type(error).__name__}: {str(error):.300}") from error
    else:
        return None
    if "\n" in line or not 12 <= len(line) <= 1200 or not re.search(rf"\b({'|'.join(MENDS)})\b", line):
        raise Unclear(line[:600])
    return line


class Refused(Exception):
    """A command that ended with exit code 2 and one line."""


def command(app, *given: str) -> Callable[[], object]:
    """Raises Refused with what a command prints to refuse, Unclear for a traceback, or for more than typer's lines."""

    def call():
        done = CliRunner().invoke(app, list(given))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise Unclear(f"{type(done.exception).__name__}: {done.exception}")
        if done.exit_code == 0:
            return
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        typers = [line for line in lines if line.startswith(("Usage:", "Try "))]  # it says where help is
        rest = [line for line in lines if line not in typers]
        if done.exit_code != 2 or len(rest) != 1:
            raise Unclear(f"exit code {done.exit_code}: {done.stderr[:600]}")
        raise Refused(rest[0] + (" (give another: --help)" if typers else ""))

    return call


# --- values for everything that takes one

VALUES = {
    int: (-1, 0, 2**31, 2**70, 1.5, "3", "", True, None, math.inf, math.nan, [1], {"a": 1}),
    float: (-1.0, -1e-9, 1e400, math.nan, "0.5", "", True, None, [0.1], {}),
    bool: (0, 1, "true", "", None, [True]),
    str: (
        3,
        2.5,
        True,
        None,
        "",
        " ",
        "null",
        "none",
        "nowhere",
        "../../etc/passwd",
        "a\nb",
        "\x00",
        "a" * 5000,
        [],
        {},
    ),
}


def fields() -> Given:
    """Fields of a profile, as --change takes them."""
    for name in Profile.__dataclass_fields__:
        default = getattr(profile("smoke"), name)
        kind = type(default) if type(default) in VALUES else str
        for value in VALUES[kind]:
            text = json.dumps({name: value})
            yield f"--change {text:.80}", lambda text=text: profile("smoke", **checked.as_object(text, "change"))


def notebooks() -> Given:
    """Parameters of notebooks, each with values of its own and of other types."""
    seen = set()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        declared = next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
        asks = {name for name in ("start", "results", "parameters") for c in cells if f"parameters.{name}(" in c.source}
        for line in declared.splitlines():
            found = re.match(r"(\w+): (\w+) = ", line)
            if found is None:
                continue
            name, kind = found[1], {"int": int, "float": float, "bool": bool, "str": str}[found[2]]
            for value in VALUES[kind]:
                if (name, repr(value), *sorted(asks)) in seen:
                    continue
                seen.add((name, repr(value), *sorted(asks)))

                def call(declared=declared, name=name, value=value, asks=asks):
                    sources = [declared, f"# Parameters\n{name} = {value!r}\n"]
                    given = {"In": ["", *sources], "inf": math.inf, "nan": math.nan}
                    for source in sources:
                        exec(source, given)
                    for ask in sorted(asks, reverse=True):
                        getattr(parameters, ask)(given)

                yield f"{path.stem} -p {name} {value!r:.40}", call


def commands(monkeypatch) -> Given:
    """Command lines of everything that has one; what would go to work does nothing."""
    from report import notebooks as book
    from study import density_map, export, plan, pretrained, runner, tuning
    from study.measures import fidelity_records, process_outcome, smollm2, wage_records

    idle = {runner: "one_by_one", density_map: "one_by_one", tuning: "trial choose", plan: "execute",
            wage_records: "measured write_record", fidelity_records: "measured write_record",
            process_outcome: "write_record", smollm2: "measured",
            pretrained: "convert", export: "write", book: "run_all build_book"}  # fmt: skip
    for module, names in idle.items():
        for name in names.split():
            monkeypatch.setattr(module, name, lambda *given, **named: [])
    monkeypatch.setattr(process_outcome, "measured", lambda *given: {"tokens": 0})
    monkeypatch.setattr(export, "replaced", nullcontext)
    texts = ("", " ", "nowhere", "../x", "a" * 300, "é\x01")
    numbers = ("-1", "0", "1.5", "x", "", "1e9", "99999999999999999999")
    lists = ("", ",", "0,,1", "a", "0,-1", "1.5", "0;1", "99999999999999999999", "0,0x1")
    options = {
        runner.app: {
            "--profile": texts, "--methods": (*texts, ",", "sft,", "sft bandit"), "--seeds": lists,
            "--jobs": numbers, "--dataset": (*texts, "/dev/null", "/proc", str(ROOT / "README.md"), "x/y"),
            "--columns": ("{", "[]", "1", "null", '{"chosen": 1}', '{"chosen": "of the testbed"}'),
            "--contrast": ("-1", "2", "nan", "inf", "x", ""), "--until": ("", "x", "Run"), "--nope": ("1",),
            "--change": ("", "{", "[]", "1", '{"x": 1}', '{"lam": 2}', '{"lam": NaN}', '{"rounds": "3"}',
                         '{"width": 7}', '{"trl": 3}', '{"trl": {"sft": 3}}', '{"trl": {"x": {}}}',
                         '{"trl": {"sft": {"foo": 1}}}'),
            "--model": (*texts, "/dev/null", "/tmp", str(ROOT), "./nowhere", "a/b/c"),
            "--engine": (*texts, "zero9", "paper", "../zero2"), "--processes": numbers,
            "--hostfile": ("nowhere", "/tmp"),
            "--report-to": (*texts, "excel"), "--out": ("/tmp", "/proc/x/y.jsonl", "/dev/null/x"),
            "--runs": ("/dev/null", "/proc/x", "/dev/null/x"),
        },
        tuning.app: {},
        process_outcome.app: {"--profile": texts, "--seeds": lists, "--samples": numbers, "--searched": numbers,
                              "--out": ("/tmp",)},
        density_map.app: {"--seeds": lists, "--out": ("/tmp", "/proc/x/y")},
        wage_records.app: {"--profile": texts, "--seeds": lists},
        fidelity_records.app: {"--profile": texts, "--seeds": lists},
        pretrained.app: {"--wheels": ("nowhere", "/dev/null"), "--folder": ("/dev/null", "/tmp")},
        export.app: {"--profile": texts, "--seed": numbers, "--nope": ("1",)},
        smollm2.app: {"--dataset": texts, "--model": texts, "--seed": numbers, "--out": ("/tmp",)},
    }  # fmt: skip
    for app, of in options.items():
        for option, values in of.items():
            for value in values:
                name = app.registered_commands[0].callback.__module__
                yield f"{name} {option} {value!r:.60}", command(app, option, value)
    for sub in ("policies", "reward-models"):
        for option, values in {"--profile": texts, "--part": ("", "1", "1/0", "-1/2", "a/b", "5/5", "1/2/3")}.items():
            for value in values:
                yield f"study.tuning {sub} {option} {value!r:.60}", command(tuning.app, sub, option, value)
    for value in (*texts, "sft", ","):
        yield f"study.tuning policies --methods {value!r:.60}", command(tuning.app, "policies", "--methods", value)
    for sub in ("execute", "build"):
        for value in texts:
            yield f"report.notebooks {sub} --profile {value!r:.60}", command(book.app, sub, "--profile", value)
    for value in numbers:
        yield f"report.notebooks execute --jobs {value!r}", command(book.app, "execute", "--jobs", value)
    yield "report.notebooks nothing", command(book.app, "nothing")


# --- files

JSON = ("", "null", "3", "[]", '"x"', "{", '{"a": NaN}', '{"a": 1} x', "\x00", "{}", '{"a": 1}', "[" * 9999, "é" * 9)
BYTES = (b"\xff\xfe", b"\x80abc\n", b"PK\x03\x04", b"\x93NUMPY")


def written(folder: Path, name: str, content: str | bytes) -> Path:
    """A file of that content, in a folder of its own."""
    path = folder / f"{len(list(folder.iterdir()))}" / name
    path.parent.mkdir()
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def records(folder: Path, record: dict) -> Given:
    """Files of records, as the study reads them before it goes on, and notebooks before they draw."""
    from study.record import recorded

    lines = [text + "\n" for text in JSON] + [raw + b"\n" for raw in BYTES]
    for name in ("kind", "method", "profile", "seed", "params"):
        for value in (None, 3.5, [], "x" * 9 if name in ("seed", "params") else 7):
            lines.append(json.dumps(record | {name: value}) + "\n")
        lines.append(json.dumps({key: x for key, x in record.items() if key != name}) + "\n")
    for name in ("method", "profile"):
        for value in (None, 3, [], {}):
            lines.append(json.dumps(record | {"params": record["params"] | {name: value}}) + "\n")
    for line in lines:
        path = written(folder, "runs.jsonl", line)
        yield f"records {line!r:.70}", lambda path=path: recorded(path)
        asked = {"profile": "cpu", "results": str(path.parent), "dataset": "testbed", "model": ""}
        sources = ["\n".join(f"{name}: str = {value!r}" for name, value in asked.items())]
        given = {"In": sources}
        exec(sources[0], given)
        yield f"results {line!r:.70}", lambda given=given: parameters.results(given)


def settings_files(folder: Path, monkeypatch) -> Given:
    """Files of claims, of choices, of engines and of hosts."""
    from densereward.training.launch import command_line, hosts_of
    from report import ledger
    from study import runner
    from study.methods import METHODS
    from study.run import Run

    broken = ("a: [1", "a: !!python/name:os.system", "- 1", "metrics: 3\nclaims: 4", "metrics: {}\nclaims: {x: [3]}")
    for text in (*JSON, *BYTES, *broken):
        path = written(folder, "claims.yml", text)
        yield f"claims {text!r:.60}", lambda path=path: ledger.load(path)
        engine = written(folder, "engine.yaml", text)
        yield f"engine {text!r:.60}", lambda path=engine: command_line(["x.py"], path, 1, None)
    run = Run(profile("cpu"), row=METHODS["bandit"])
    choices = ('{"choices": 3}', '{"choices": {"bandit": 3}}', '{"choices": {"bandit": {"foo": 1}}}', '{"choices": {}}',
               '{"choices": {"bandit": {"kl_coef": -1}}}', '{"choices": {"bandit": {"kl_coef": "x"}}}')  # fmt: skip
    for text in (*JSON, *BYTES, *choices):
        path = written(folder, "x", "").parent / "cpu" / "choices.json"
        path.parent.mkdir()
        path.write_bytes(text.encode() if isinstance(text, str) else text)

        def call(root=path.parents[1]):
            monkeypatch.setattr(runner, "RESULTS", root)
            runner.with_choices(run)

        yield f"choices {text!r:.60}", call
    for text in ("node", "node slots", "node slots=x", "node slots=-1", "a slots=1 b slots=1", "=1", b"\xff slots=1"):
        path = written(folder, "hosts", text)
        yield f"hosts {text!r}", lambda path=path: hosts_of(path)


def model_folders(folder: Path, model: Path, draw) -> Given:
    """Folders of a model of which one file is cut, emptied, lost or holds something else."""
    from densereward.text.models import check_length, load_causal_lm

    def read(path: Path) -> None:
        check_length(path, 8)
        load_causal_lm(path)

    for name in sorted(path.name for path in model.iterdir()):
        whole = (model / name).read_bytes()
        cut = [whole[: int(at)] for at in draw.integers(1, len(whole), 2)]
        for content in (*cut, *(text.encode() for text in JSON[:6]), BYTES[0], None):
            place = folder / f"{len(list(folder.iterdir()))}"
            shutil.copytree(model, place)
            (place / name).write_bytes(content) if content is not None else (place / name).unlink()
            yield f"{name} as {content!r:.40}", lambda place=place: read(place)
    config = json.loads((model / "config.json").read_text())
    values = (None, -1, 0, 10**9, 1.5, "x", [], {}, True)
    for name in ("model_type", "architectures", "hidden_size", "num_attention_heads", "num_hidden_layers",
                 "vocab_size", "max_position_embeddings", "dtype", "hidden_act", "rope_parameters",
                 "quantization_config"):  # fmt: skip
        for value in values:
            if (name, value) in (("hidden_size", 10**9), ("vocab_size", 10**9), ("num_hidden_layers", 10**9)):
                continue  # takes all memory there is, as it says
            place = folder / f"{len(list(folder.iterdir()))}"
            shutil.copytree(model, place)
            (place / "config.json").write_text(json.dumps(config | {name: value}))
            yield f"config.json with {name} {value!r}", lambda place=place: read(place)


def data_files(folder: Path) -> Given:
    """Files of preference pairs."""
    from densereward.text import data

    good = {"prompt": "hi", "chosen": "a", "rejected": "b"}
    lines = [text + "\n" for text in JSON if text] + [raw + b"\n" for raw in BYTES]
    for name in good:
        for value in (None, 3, True, [], {}, [3], [{"role": "x", "content": "a"}], [{"role": "user"}], "\ud800"):
            lines.append(json.dumps(good | {name: value}) + "\n")
    for line in lines:
        path = written(folder, "pairs.jsonl", line)
        yield f"pairs {line!r:.70}", lambda path=path: data.read_pairs(path)
    for name in ("x.parquet", "x.jsonl.gz"):
        for content in BYTES:
            path = written(folder, name, content)
            yield f"{name} as {content!r}", lambda path=path: data.read_pairs(path)
    for name in ("nowhere.jsonl", "nowhere", "x.csv", "", "\x00", "a" * 300, "owner/name", "/dev/null"):
        yield f"dataset {name!r:.40}", lambda name=name: data.load(folder / name if "/" not in name else name)
    for sizes in ({"sft": 0}, {"sft": -1}, {"sft": 1.5}, {"sft": "3"}, {"sft": None}, {"x": 1}):
        yield f"sizes {sizes}", lambda sizes=sizes: data.load(folder, **sizes)
