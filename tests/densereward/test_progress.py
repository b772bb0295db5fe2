"""What would break: half an hour of silence, logs of nothing but bars, bars in the book, or another training for being
watched."""

import io
import re
from types import SimpleNamespace

import nbformat
import pytest
import torch
from transformers import Trainer, TrainingArguments

from densereward import progress as p
from densereward.training.settings import watched
from report.notebooks import run_notebook


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(p, "DELAY", 1e-9)
    monkeypatch.setattr(p, "EVERY", 0.0)


@pytest.fixture
def told(monkeypatch):
    """What is written to a stderr that is no terminal."""
    stream = io.StringIO()
    monkeypatch.setattr(p, "sys", SimpleNamespace(stderr=stream))  # pytest sets sys.stderr anew after fixtures
    return stream


def test_a_log_file_gets_whole_lines_that_say_what_is_done_and_what_is_left(at_once, told):
    assert list(p.progress("batches", iter("abcd"), 4)) == list("abcd")
    lines = told.getvalue().splitlines()
    assert "\r" not in told.getvalue() and all(p.LINE.fullmatch(line) for line in lines)
    assert {"batches: 1 of 4", "batches: 3 of 4"} <= {line.split(",")[0] for line in lines}


def test_what_is_short_is_silent_and_what_is_long_says_a_line_in_ten_seconds_at_most(told):
    now = [1000.0]
    for seconds, lines in ((2.0, 0), (60.0, 6)):
        bar = p.progress("updates", total=120)
        bar._time = lambda: now[0]
        bar.start_t = bar.last_print_t = now[0]
        for _ in range(120):
            now[0] += seconds / 120
            bar.update()
        bar.close()
        assert len(told.getvalue().splitlines()) == lines
    assert "updates: 100 of 120, 00:50 gone, 00:10 left" in told.getvalue()


def test_on_a_terminal_a_bar_is_drawn_over_itself_and_is_gone_at_the_end(monkeypatch):
    monkeypatch.setattr(p, "DELAY", 0.0)  # drawn before the first batch, whatever the clock says
    terminal = Terminal()
    monkeypatch.setattr(p, "sys", SimpleNamespace(stderr=terminal))
    for _ in p.progress("batches", range(3)):
        pass
    drawn = terminal.getvalue()
    assert "batches" in drawn and "\n" not in drawn and drawn.endswith("\r")
    assert not p.shown(drawn).strip()


def test_of_nothing_nothing_is_said(at_once, told):
    assert not list(p.progress("batches", [])) and not told.getvalue()


def test_loops_within_loops_and_those_that_break_off_leave_whole_lines(at_once, told):
    for _ in p.progress("outer", range(2)):
        for i in p.progress("inner", range(5)):
            if i == 3:
                break
    assert all(p.LINE.fullmatch(line) for line in told.getvalue().splitlines())


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(1, 1)

    def forward(self, x):
        return {"loss": (self.linear(x) ** 2).mean()}


def trained(folder, watch: bool) -> torch.Tensor:
    args = TrainingArguments(
        str(folder), max_steps=4, disable_tqdm=True, use_cpu=True, report_to=[], logging_steps=1, save_strategy="no"
    )
    rows = [{"x": [float(i)]} for i in range(64)]
    trainer = Trainer(model=Linear(), args=args, train_dataset=rows)
    (watched(trainer, "model") if watch else trainer).train()
    return trainer.model.linear.weight.detach()


def test_a_watched_trainer_says_its_updates_and_learns_the_same(at_once, told, tmp_path, capsys):
    assert torch.equal(trained(tmp_path, True), trained(tmp_path, False))
    assert "model, updates: 3 of 4," in told.getvalue()


def test_the_driver_of_the_book_relays_it_and_the_page_keeps_none_of_it(tmp_path):
    cell = (
        "import sys\nfrom densereward import progress as p\np.DELAY = p.EVERY = 0\n"
        "for i in p.progress('steps', range(3)):\n    print('at', i, flush=True)\nprint('a warning', file=sys.stderr)"
    )
    source, target, said = tmp_path / "one.ipynb", tmp_path / "out.ipynb", []
    asked = nbformat.v4.new_code_cell("profile = 'smoke'", metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells, about = [asked, nbformat.v4.new_code_cell(cell)], {"kernelspec": kernel}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=about), source)
    run_notebook(source, target, {"profile": "smoke"}, tmp_path, said.append)
    assert any(re.match(r"steps: \d of 3, ", line) for line in said) and "cell 3/3" in said
    outputs = nbformat.read(target, as_version=4).cells[-1].outputs
    text = {name: "".join(o.text for o in outputs if o.name == name) for name in ("stdout", "stderr")}
    assert text["stdout"] == "at 0\nat 1\nat 2\n" and text["stderr"].strip() == "a warning"
