"""What may be asked for: strict types and ranges, one clear line where a value is none of them, before any work starts.

Profile, world, run and row are frozen dataclasses of pydantic whose fields are annotated with the types below, so that
notebooks, the study, tuning and export refuse the same values with the same words. Strict: "3", 2.5, true and null are
no whole numbers; nan and infinity are no numbers. What only notebooks ask for is in `Asked`.
"""

import dataclasses
import functools
import json
from typing import Annotated, Any

import pydantic
from pydantic import AfterValidator, Field

STRICT = pydantic.ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")


def _line(text: str) -> str:
    """One line, whose parts may name files."""
    if not text.isprintable() or max(map(len, text.split("/"))) > 255:
        raise ValueError("no line of text")
    return text


def _said(text: str) -> str:
    if text.strip().casefold() in ("", "none", "null", "nan"):
        raise ValueError("nothing is said")
    return text


def _renaming(text: str) -> str:
    """Empty, or a JSON object of texts."""
    if text and not all(isinstance(theirs, str) for theirs in as_object(text, "columns").values()):
        raise ValueError("no names")
    return text


# A description is the mend: "rounds is 0; give <description>".
Count = Annotated[int, Field(ge=1, description="a whole number, 1 or more")]
Whole = Annotated[int, Field(ge=0, description="a whole number, 0 or more")]
Seed = Annotated[int, Field(ge=0, lt=2**31, description="a whole number, 0 to 2147483647")]
Positive = Annotated[float, Field(gt=0, description="a number above 0")]
NotNegative = Annotated[float, Field(ge=0, description="a number, 0 or more")]
Share = Annotated[float, Field(ge=0, le=1, description="a number, 0 to 1")]
Part = Annotated[float, Field(gt=0, le=1, description="a number above 0, to 1")]
Several = Annotated[int, Field(ge=2, description="a whole number, 2 or more")]
Yes = Annotated[bool, Field(description="true or false")]
Number = Annotated[float, Field(description="a number")]
Integer = Annotated[int, Field(description="a whole number")]
Words = Annotated[str, Field(description="text")]  # may be empty
Line = Annotated[str, AfterValidator(_line), Field(description="one line of text, a name or a path")]  # may be empty
Text = Annotated[str, AfterValidator(_said), Field(description="text")]
DATASET = "'testbed', a .jsonl, .jsonl.gz or .parquet file, a folder of them, or owner/name of the hub"
DatasetName = Annotated[str, AfterValidator(_line), AfterValidator(_said), Field(description=DATASET)]
Columns = Annotated[
    str,
    AfterValidator(_renaming),
    Field(description='our names and those in the files as JSON, such as {"prompt": "question"}; empty: they are ours'),
]
ModelName = Annotated[
    Annotated[str, AfterValidator(_line), AfterValidator(_said)] | None,
    Field(description="the folder of a saved causal LM, or a hub name (owner/name); leave it empty for the tiny one"),
]


def checked(kind: type, **options) -> type:
    """Class decorator: a frozen dataclass whose fields are checked whenever one is made, by `replace` too. Raises
    ValueError with one line that names field, value and mend."""
    made = pydantic.dataclasses.dataclass(frozen=True, config=STRICT, **options)(kind)
    init = made.__init__

    @functools.wraps(init)
    def __init__(self, *args, **given):
        try:
            init(self, *args, **given)
        except pydantic.ValidationError as error:
            raise ValueError(_refused(error, made)) from None

    made.__init__ = __init__
    return made


def _refused(error: pydantic.ValidationError, kind: type) -> str:
    first = error.errors()[0]
    if not first["loc"]:  # of several fields, from __post_init__
        return str(first["ctx"]["error"])
    name = first["loc"][0]
    if isinstance(name, int):  # given by its place
        name = dataclasses.fields(kind)[name].name
    if first["type"] == "unexpected_keyword_argument":
        fields = ", ".join(f.name for f in dataclasses.fields(kind))
        return f"{kind.__name__.lower()} has no field {name!r}; it has {fields}"
    if first["type"] in ("missing", "missing_argument"):
        return f"{kind.__name__.lower()} lacks {name}; give {mend(kind, name)}"
    return _refusal(name, first["input"], mend(kind, name))


def mend(kind: type, name: str) -> str:
    """What to give for a field."""
    return kind.__pydantic_fields__[name].description or "another value"


def _refusal(name: str, value: object, mend: str) -> str:
    return f"{name} is {value!r:.80}; give {mend}"


def check(name: str, value: object, type_: Any) -> Any:
    """`value` as one of the types above. Raises ValueError as fields do."""
    adapter = _adapter(type_)
    try:
        return adapter.validate_python(value)
    except pydantic.ValidationError:
        words = next(m.description for m in type_.__metadata__ if getattr(m, "description", None))
        raise ValueError(_refusal(name, value, words)) from None


@functools.cache
def _adapter(type_: Any) -> pydantic.TypeAdapter:
    return pydantic.TypeAdapter(type_, config=pydantic.ConfigDict(strict=True, allow_inf_nan=False))


@checked
class Asked:
    """What notebooks ask for beside a run and fields of its profile."""

    entropy_cutoff: NotNegative = 1.75  # nats
    n: Annotated[int, Field(ge=100, description="a whole number, 100 or more")] = 200  # answers
    ngram: Count = 5  # tokens
    error: Share = 0.1  # a reviser's, per span
    delta: NotNegative = 1.0  # a mask's offset
    noise: NotNegative = 1.0  # deviation, in credit
    samples: Count = 8  # answers per prompt
    searched: Count = 4  # prompts
    shown: Count = 12  # pairs, or answers
    requests: Whole = 100  # to an endpoint
    taste: NotNegative = 1.0  # a judge's for length, logits
    longest: Count = 96  # tokens
    peak: Positive = 312.0  # of a GPU, teraflops
    training: Part = 0.3  # of the peak
    sampling: Part = 0.03  # of the peak
    filled: Part = 1.0  # of the limits on length
    vocabulary: Annotated[int, Field(ge=261, description="a whole number, 261 (one token per letter) or more")] = 320


def type_of(name: str, *kinds: type) -> Any:
    """The annotation of the field called `name` in the first of the classes that has it, or None."""
    return next((kind.__dataclass_fields__[name].type for kind in kinds if name in kind.__dataclass_fields__), None)


def as_object(text: str, name: str) -> dict:
    """A JSON object. Raises ValueError, naming `name`, for other text, NaN and what is nested too deeply."""

    def refuse(constant: str):
        raise ValueError(f"{constant} is no number")

    try:
        found = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is {text!r:.60}: no JSON ({error}); {_OBJECT}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{name} is {text!r:.60}: no JSON object; {_OBJECT}")
    return found


_OBJECT = "give one such as '{\"lam\": 0.95}'"


def listed(text: str, name: str) -> list[str]:
    """What stands between the commas of `text`, each once, in its order. Raises ValueError for nothing there."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ValueError(f"{name} is {text!r}; give one or more, separated by commas")
    return list(dict.fromkeys(parts))


def seeds(text: str) -> list[int]:
    """Seeds separated by commas, each once. Raises ValueError, naming the seed, for what is none."""
    found = []
    for part in listed(text, "seeds"):
        try:
            found.append(int(part))
        except ValueError:
            raise ValueError(f"seeds is {text!r:.80}; give whole numbers, separated by commas") from None
    return list(dict.fromkeys(check("seed", seed, Seed) for seed in found))
