"""Folders of models, files of data and records that somebody else made: they are read, and never run."""

import gzip
import json
import os
import pickle
import re
import warnings
from pathlib import Path

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import torch

from densereward.text import data, tokens
from densereward.text.models import TokenScorer, build_tokenizer, check_length, load_causal_lm, tiny_llama
from densereward.training.launch import command_line
from report import grid, ledger, strips
from study.records import read_records

TOKENIZER = build_tokenizer(["please name four fruits. apple, pear, plum and lemon."] * 4, 300)
AUTO = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer")


class Runs:
    """Pickled, it runs a command when it is read."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "it ran".replace(" ", "-")


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    found = tmp_path / "model"
    tiny_llama(TOKENIZER, 32, 1, heads=2).save_pretrained(found)
    TOKENIZER.save_pretrained(found)
    return found


def changed(path: Path, **fields) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def template(text: str):
    return lambda folder, mark: (folder / "chat_template.jinja").write_text(text.replace("MARK", str(mark)))


def own_code(folder: Path, mark: Path, name: str = "llama") -> None:
    code = f"import os\nos.system('touch {mark}')\nclass Evil: pass\n"
    (folder / "evil.py").write_text(code)
    changed(folder / "config.json", model_type=name, auto_map=dict.fromkeys(AUTO, "evil.Evil"))
    changed(folder / "tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.Evil", None]})


def only_pickle(folder: Path, mark: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(Runs(mark), folder / "pytorch_model.bin")


def shards(folder: Path, mark: Path) -> None:
    """An index that leads from safetensors to a pickle."""
    (folder / "model.safetensors").unlink()
    torch.save(Runs(mark), folder / "pytorch_model.bin")
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "pytorch_model.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def pickles_beside(folder: Path, mark: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "tokenizer.pkl"):
        (folder / name).write_bytes(pickle.dumps(Runs(mark)))


def own_generate(folder: Path, mark: Path) -> None:
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(f"import os\nos.system('touch {mark}')\ngenerate = None\n")


SANDBOX = {  # ways out of jinja that are known
    "globals of a helper": "{{ cycler.__init__.__globals__.os.system('touch MARK') }}",
    "popen": "{{ lipsum.__globals__['os'].popen('touch MARK').read() }}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "an attribute by filter": "{{ lipsum | attr('__globals__') }}",
    "the formatter": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "import": "{% import 'os' as os %}{{ os.system('touch MARK') }}",
    "include": "{% include '/etc/passwd' %}",
    "a change of the messages": "{{ messages.append(1) }}",
    "a long loop": "{% for i in range(10 ** 9) %}{% endfor %}",
    "a broken program": "{{ 1 // 0 }}",
    "no program": "{% for",
    "deaf": "{{ bos_token }}",
}
FOLDERS = {
    "weights as a pickle": only_pickle,
    "an index of pickles": shards,
    "pickles beside the weights": pickles_beside,
    "code for a known model": own_code,
    "code for a new model": lambda folder, mark: own_code(folder, mark, "evil"),
    "code that generates": own_generate,
    "attention from elsewhere": lambda folder, mark: changed(folder / "config.json", attn_implementation="evil/code"),
    "a config that names another folder": lambda folder, mark: changed(folder / "config.json", _name_or_path="evil/x"),
    **{f"template: {name}": template(text) for name, text in SANDBOX.items()},
}
HARMLESS = ("pickles beside the weights", "code for a known model", "code that generates", "a config that names")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_models_folder_runs_nothing(folder, mark, name):
    FOLDERS[name](folder, mark)
    read = {
        "model": load_causal_lm, "length": lambda path: check_length(path, 8), "scorer": TokenScorer.from_pretrained,
    }  # fmt: skip
    told = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for what, call in read.items():
            try:
                call(folder)
            except ValueError as error:
                told[what] = str(error)
    assert not mark.exists(), "it ran"
    assert all("\n" not in said and len(said) < 500 for said in told.values()), told
    assert "scorer" in told, "a language model is no scorer"
    if not name.startswith((*HARMLESS, "attention")):
        assert re.search("; |: ", told.get("model", "")), f"{name} was taken: {told}"


def test_a_scorer_as_a_pickle_is_refused(folder, mark, count):
    from densereward.text.models import scorer_from

    scorer_from(load_causal_lm(folder)[0]).save_pretrained(folder.parent / "scorer")
    only_pickle(folder.parent / "scorer", mark)
    with pytest.raises(ValueError, match="weights of .* cannot be read") as told:
        TokenScorer.from_pretrained(folder.parent / "scorer")
    assert "\n" not in str(told.value) and not mark.exists()
    count("folders of models that try to run code", len(FOLDERS) + 1, "nothing ran; one line, or read without it")


ATTACK = "{{ lipsum.__globals__['os'].popen('touch MARK') }}<script>alert(1)</script>{% include 'x' %}"


def test_a_file_of_data_runs_nothing_and_its_texts_stay_texts(tmp_path, mark, count):
    """Templates are filled with texts, which are none themselves; a page shows what they say."""
    said = ATTACK.replace("MARK", str(mark))
    row = {"prompt": said, "chosen": f"{said} a", "rejected": "b", "__reduce__": ["os.system", f"touch {mark}"],
           "py/object/apply:os.system": [f"touch {mark}"]}  # fmt: skip
    table = pyarrow.table({name: [row[name]] for name in ("prompt", "chosen", "rejected")})
    extension = {b"ARROW:extension:name": b"arrow.py_extension_type",
                 b"ARROW:extension:metadata": pickle.dumps(Runs(mark))}  # fmt: skip
    fields = [field.with_metadata(extension) for field in table.schema]
    odd = table.cast(pyarrow.schema(fields, metadata={b"pandas": pickle.dumps(Runs(mark))}))
    pyarrow.parquet.write_table(odd, tmp_path / "odd.parquet")
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as file:
        file.write(json.dumps(row) + "\n")
    (tmp_path / "rows.py").write_text(f"import os; os.system('touch {mark}')")  # a loading script, as there were
    for name in ("odd.parquet", "rows.jsonl", "rows.jsonl.gz"):
        pairs, _ = data.read_pairs(tmp_path / name)
        assert pairs[0]["prompt"][0]["content"] == said and len(pairs) == 1
    data.read_pairs(tmp_path)
    ids = tokens.tokenize_prompt(TOKENIZER, pairs[0]["prompt"])
    assert said in TOKENIZER.decode(ids) and not mark.exists()
    (tmp_path / "pickled.parquet").write_bytes(pickle.dumps(Runs(mark)))
    (tmp_path / "pickled.jsonl").write_bytes(pickle.dumps(Runs(mark)))
    for name in ("pickled.parquet", "pickled.jsonl"):
        with pytest.raises(ValueError, match=f"{name}, line 1"):
            data.read_pairs(tmp_path / name)
    assert not mark.exists()
    tried = [path for path in tmp_path.iterdir() if path.is_file()]
    count("files of data that try to run code", len(tried), "nothing ran; texts are texts, other files one line each")


def test_what_pages_show_of_data_and_records_is_text(count):
    """A reward or a name that holds a script would run in every reader's browser."""
    script = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    ids = TOKENIZER(script)["input_ids"]
    pieces = strips.pieces(TOKENIZER, ids)
    shown = [
        grid.table(pd.DataFrame({script: [script], "method": [script]})),
        strips.values(script, [script], [1.0]), strips.segments(script, pieces, [0] * len(ids)),
        strips.masked(script, [script], [True], [1]), strips.dialogue({"role": "user", "content": script}),
    ]  # fmt: skip
    for page in map(str, shown):
        assert "<script" not in page and "<img" not in page and "alert" in page
    count("tables and strips of texts that are scripts", len(shown), "a page shows what they say")


def test_files_of_settings_and_records_run_nothing(tmp_path, mark, count):
    evil = f'!!python/object/apply:os.system ["touch {mark}"]\n'
    (tmp_path / "claims.yml").write_text(f"metrics: {evil}claims: {{}}\n")
    (tmp_path / "engine.yaml").write_text(f"distributed_type: {evil}")
    (tmp_path / "records.jsonl").write_bytes(pickle.dumps(Runs(mark)) + b"\n")
    reads = (
        lambda: ledger.load(tmp_path / "claims.yml"),
        lambda: command_line(["x.py"], tmp_path / "engine.yaml", 1, None),
        lambda: read_records(tmp_path / "records.jsonl"),
    )
    for read in reads:
        with pytest.raises(ValueError) as told:
            read()
        assert "\n" not in str(told.value) and str(tmp_path) in str(told.value)
    assert not mark.exists()
    count("files of settings and records that try to run code", len(reads), "nothing ran; one line each")
