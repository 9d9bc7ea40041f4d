"""The command line, as a new user meets it: what it prints, what it writes, and how it says no."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import networkx as nx
import pytest
import torch

import ffebm_compiler as fc
from ffebm_compiler.cli import main

MODELS = """
import torch
from torch import nn
from a_neighbour import WIDTH

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.body = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x):
        h = self.stem(x)
        h = torch.relu(self.body(h) + h)
        return self.head(self.drop(h.mean((2, 3))))

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.a, self.b = nn.Embedding(11, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, ids, scale):
        return self.b(torch.tanh(self.a(self.embed(ids)))) * scale

class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else x

def make(): return Net()
def needs(width, depth=2): return Net()
def no_model(): return 3
def broken(): return nn.Linear(2, "x")
instance = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
number = 5
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder of a user with models in ``zoo_file.py``; what is imported in it is forgotten afterwards."""
    (tmp_path / "zoo_file.py").write_text(MODELS)
    (tmp_path / "a_neighbour.py").write_text("WIDTH = 4\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("zoo_file", "a_neighbour", "fails", "wants"):
        sys.modules.pop(name, None)


@pytest.fixture
def ffebm(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def refused(ffebm: Run, *arguments: str) -> str:
    """The one message of a command that could not be carried out."""
    status, out, err = ffebm(*arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("ffebm: error: ")
    assert "Traceback" not in err
    return err


# --- naming the model -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["zoo_file.py:Net", "zoo_file:Net", "zoo_file.py:make", "./zoo_file.py:make", "zoo_file:make"]
)
def test_a_model_is_named_by_module_or_file(ffebm: Run, name: str) -> None:
    status, out, err = ffebm("explain", name)
    assert (status, err) == (0, "")
    assert out.startswith("Net: 3 energy-based blocks with 3 weighted layers")


def test_an_instance_is_a_model_too(ffebm: Run) -> None:
    assert ffebm("explain", "zoo_file.py:instance")[1].startswith(
        "Sequential: 1 energy-based block with 2 weighted layers"
    )


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("zoo_file.py:Nett", 'zoo_file.py has no Nett\n    Did you mean "Net"'),
        ("zoo_flie.py:Net", 'there is no file zoo_flie.py\n    Did you mean "zoo_file.py"'),
        ("zoo_flie:Net", 'there is no module zoo_flie\n    Did you mean "zoo_file"'),
        ("torch.nnn:Linear", 'there is no module torch.nnn\n    Did you mean "torch.nn"'),
        (
            "zoo_file.py",
            "does not name a factory\n    Write MODULE:FACTORY, for example mypackage.models:Net or net.py:Net. "
            "zoo_file.py has Net",
        ),
        (":Net", "does not name a factory"),
        ("zoo_file:", "does not name a factory"),
        ("zoo_file:needs", "needs the arguments width"),
        ("zoo_file:no_model", "made an object of type int"),
        ("zoo_file:number", "is of type int"),
        ("zoo_file:broken", "making the model failed at"),
        ("nowhere/net.py:Net", "there is no file"),
    ],
)
def test_a_wrong_name_gets_one_message_with_a_remedy(ffebm: Run, name: str, what: str) -> None:
    message = refused(ffebm, "explain", name)
    assert f"model {name!r}" in message
    assert what in message


def test_an_error_in_the_users_module_says_where(ffebm: Run, folder: Path) -> None:
    (folder / "fails.py").write_text("x = 1\ny = x / 0\n")
    (folder / "wants.py").write_text("import no_such_package\n")
    for name in ("fails.py:Net", "fails:Net"):
        message = refused(ffebm, "explain", name)
        assert "ZeroDivisionError" in message
        assert "fails.py:2" in message
    assert "wants.py:1: ModuleNotFoundError: No module named 'no_such_package'" in refused(
        ffebm, "explain", "wants:Net"
    )
    assert "fails" not in sys.modules


def test_a_traceback_is_shown_where_asked_for(ffebm: Run) -> None:
    status, _, err = ffebm("explain", "zoo_file:broken", "--traceback")
    assert status == 2
    assert "Traceback (most recent call last)" in err
    assert "ffebm: error: " in err


# --- explain ----------------------------------------------------------------------------------------------


def test_explain_prints_the_report_that_the_library_gives(ffebm: Run) -> None:
    out = ffebm("explain", "zoo_file:Net", "--block-sizes", "1,2", "--digital", "head")[1]
    from zoo_file import Net

    assert out == f"{fc.explain(Net(), block_sizes=[1, 2], digital=['head'])}\n"


def test_explain_as_json(ffebm: Run) -> None:
    code, out, said = ffebm("explain", "zoo_file:Net", "--json", "--norm", "held")
    assert (code, "batch norm stem.1 is held at no statistics yet" in said) == (0, True)
    report = json.loads(out)
    assert report["trained_norms"] == []
    assert report["held_norms"] == ["stem.1"]


def test_an_input_shape_measures_the_gains(ffebm: Run) -> None:
    assert "measured at first use" in ffebm("explain", "zoo_file:Net")[1]
    out = ffebm("explain", "zoo_file:Net", "--input-shape", "2,3,8,8", "--loop-gain", "0.05")[1]
    assert "strictly convex: coupling" in out
    assert "at most 0.05" in out
    assert "verified" in out
    assert "unit reverse gains" in ffebm("explain", "zoo_file:Net", "--loop-gain", "none")[1]


def test_several_inputs_of_whole_and_real_numbers(ffebm: Run) -> None:
    status, out, err = ffebm("explain", "zoo_file:Tokens", "--input-shape", "2,5:11", "--input-shape", "2,5,1")
    assert (status, err) == (0, "")
    assert "verified" in out


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--digital", "stemm"], "the model has no layer 'stemm'\n    Did you mean \"stem\""),
        (["--block-size", "0"], "option block_size: is 0"),
        (["--analog", "drop"], "layer drop: analog= insists on it"),
        (["--input-shape", "2,4,8,8"], "layer stem.0 (Conv2d"),
        (["--block-sizes", "1,1,1,1,1"], "names 5 blocks"),
        (["--loop-gain", "-1", "--norm", "hold"], "2 problems"),
    ],
)
def test_a_wrong_option_gets_the_librarys_message(ffebm: Run, arguments: list[str], what: str) -> None:
    assert what in refused(ffebm, "explain", "zoo_file:Net", *arguments)


def test_an_untraceable_model_says_what_to_do(ffebm: Run) -> None:
    message = refused(ffebm, "explain", "zoo_file:Branching")
    assert "torch.fx can't trace it" in message
    assert "--input-shape 1,3,32,32 gives an example input" in message
    assert "zoo_file.py" in message


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain"],
        ["expain", "m:n"],
        [],
        ["explain", "m:n", "--block-size", "two"],
        ["explain", "m:n", "--block-sizes", "2;3"],
        ["explain", "m:n", "--loop-gain", "low"],
        ["explain", "m:n", "--input-shape", "2,x"],
        ["explain", "m:n", "--input-shape", "0,3"],
        ["explain", "m:n", "--input-shape", "2:0"],
        ["explain", "m:n", "--block-size", "2", "--block-sizes", "2,3"],
        ["explain", "m:n", "--nonsense"],
    ],
)
def test_usage_errors_exit_with_2(ffebm: Run, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: ffebm" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["explain", "convert", "draw", "check"])
def test_help_teaches_by_examples_and_shows_defaults(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"examples:\n  ffebm {command} net.py:Net" in text
    assert "(default: 0.01)" in text
    assert "MODULE:FACTORY names the model" in text


# --- convert ----------------------------------------------------------------------------------------------

FILES = {
    "report.txt",
    "report.json",
    "energies.txt",
    "energies.tex",
    "graph.graphml",
    "graph.json",
    "graph.html",
    "train.py",
}


def test_convert_writes_everything_and_says_so(ffebm: Run, folder: Path) -> None:
    status, out, err = ffebm("convert", "zoo_file.py:Net", "-o", "out", "--input-shape", "2,3,8,8")
    assert (status, err) == (0, "")
    assert {p.name for p in (folder / "out").iterdir()} == FILES
    assert all(name in out for name in FILES)
    text = {name: (folder / "out" / name).read_text(encoding="utf-8") for name in FILES}
    assert "strictly convex" in text["report.txt"]
    assert json.loads(text["report.json"])["model"] == "Net"
    assert "block2: body" in text["energies.txt"]
    assert "w[" not in text["energies.txt"]  # the gains are measured
    assert text["energies.tex"].count(r"\begin{aligned}") == 3
    graph = nx.read_graphml(folder / "out" / "graph.graphml")
    assert dict(graph.nodes(data=True)) == dict(
        nx.node_link_graph(json.loads(text["graph.json"]), edges="edges").nodes(data=True)
    )
    assert "<svg" in text["graph.html"]
    compile(text["train.py"], "train.py", "exec")
    assert f"{folder / 'zoo_file.py'}:Net" in text["train.py"]


def test_convert_never_touches_a_folder_unasked(ffebm: Run, folder: Path) -> None:
    ffebm("convert", "zoo_file:instance", "-o", "out")
    before = (folder / "out" / "report.txt").read_text()
    assert "folder out: exists" in refused(ffebm, "convert", "zoo_file:Net", "-o", "out")
    assert (folder / "out" / "report.txt").read_text() == before
    assert ffebm("convert", "zoo_file:Net", "-o", "out", "--force")[0] == 0
    assert (folder / "out" / "report.txt").read_text().startswith("Net")


def test_force_replaces_nothing_but_its_own(ffebm: Run, folder: Path) -> None:
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter1.tex").write_text("years of work")
    assert "holds something else" in refused(ffebm, "convert", "zoo_file:Net", "-o", "thesis", "--force")
    assert (folder / "thesis" / "chapter1.tex").read_text() == "years of work"


def test_a_failing_conversion_leaves_nothing_behind(ffebm: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(folder.iterdir())
    refused(ffebm, "convert", "zoo_file:Net", "-o", "out", "--digital", "stemm")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nx, "write_graphml", full)
    assert "No space left on device" in refused(ffebm, "convert", "zoo_file:Net", "-o", "out")
    assert set(folder.iterdir()) - before <= {folder / "__pycache__"}


def test_a_failing_replacement_keeps_the_old_folder(ffebm: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ffebm("convert", "zoo_file:instance", "-o", "out")

    def refuse(*_: object) -> bool:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr("ffebm_compiler.files._exchange", refuse)
    assert "Permission denied" in refused(ffebm, "convert", "zoo_file:Net", "-o", "out", "--force")
    assert (folder / "out" / "report.txt").read_text().startswith("Sequential")
    assert not [p for p in folder.iterdir() if p.name.startswith(".out")]


@pytest.mark.parametrize(
    ("output", "what"),
    [
        ("no/such/out", "there is no folder no/such"),
        ("zoo_file.py", "is a file"),
        ("zoo_file.py/out", "there is no folder"),
    ],
)
def test_an_impossible_place_is_refused_before_the_work(
    ffebm: Run, output: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ffebm_compiler.cli.conversion.convert", lambda *_, **__: pytest.fail("the model was converted first")
    )
    assert what in refused(ffebm, "convert", "zoo_file:Net", "-o", output)


# --- draw -------------------------------------------------------------------------------------------------


def test_draw_writes_a_picture_and_prints_its_name(ffebm: Run, folder: Path) -> None:
    assert ffebm("draw", "zoo_file:Net") == (0, "graph.html\n", "")
    assert "stem.0" in (folder / "graph.html").read_text(encoding="utf-8")
    assert ffebm("draw", "zoo_file:Net", "-o", "net.svg", "--block-size", "1") == (0, "net.svg\n", "")


def test_an_impossible_picture_is_refused_before_the_work(ffebm: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "ffebm_compiler.cli.conversion.convert", lambda *_, **__: pytest.fail("the model was converted first")
    )
    assert "no picture format" in refused(ffebm, "draw", "zoo_file:Net", "-o", "net.gif")
    assert "the folder no does not exist" in refused(ffebm, "draw", "zoo_file:Net", "-o", "no/net.svg")


# --- check ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [["--input-shape", "1,3,8,8"], []])
def test_check_passes_on_a_right_conversion(ffebm: Run, shape: list[str]) -> None:
    status, out, err = ffebm("check", "zoo_file:Net", *shape)
    assert (status, err) == (0, "")
    assert "all checks passed" in out
    assert "body.weight" in out


def test_check_names_the_layers_that_fail(ffebm: Run) -> None:
    status, out, _ = ffebm("check", "zoo_file:Net", "--input-shape", "1,3,8,8", "--threshold", "1.1")
    assert status == 1
    assert "FAILED: the gradient of body.weight is wrong: cosine" in out


def test_check_fails_where_a_block_does_not_converge(ffebm: Run) -> None:
    status, out, err = ffebm(
        "check",
        "zoo_file:instance",
        "--input-shape",
        "1,4",
        "--max-sweeps",
        "1",
        "--tolerance",
        "1e-7",
        "--loop-gain",
        "0.2",
    )
    assert status == 1
    assert "FAILED: block1 did not converge" in out
    assert "ffebm: warning: block1" in err


def test_check_compares_outputs_at_block_size_one(ffebm: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(model: torch.nn.Module, *_: object, **options: object) -> fc.FFEBM:
        made = fc.convert(model, **options)
        if options["block_size"] == 1:
            with torch.no_grad():
                next(made.parameters()).mul_(1.001)
        return made

    monkeypatch.setattr("ffebm_compiler.cli.conversion.convert", changed)
    status, out, _ = ffebm("check", "zoo_file:instance", "--input-shape", "1,4")
    assert status == 1
    assert "FAILED: at block size 1 the output differs by" in out


def test_check_asks_for_a_shape_that_can_t_be_guessed(ffebm: Run) -> None:
    assert "--input-shape" in refused(ffebm, "check", "zoo_file:Tokens")
    assert ffebm("check", "zoo_file:Tokens", "--input-shape", "1,5:11", "--input-shape", "1,5,1")[0] == 0


# --- the program ------------------------------------------------------------------------------------------


def test_the_callers_random_numbers_and_warnings_are_left_alone(ffebm: Run) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    ffebm("explain", "zoo_file:Net", "--seed", "7")
    assert torch.equal(torch.rand(2), expected)


def test_the_seed_chooses_the_weights(ffebm: Run) -> None:
    def checked(seed: str) -> str:
        return ffebm("check", "zoo_file:make", "--seed", seed)[1]

    assert checked("1") == checked("1") != checked("2")  # whether or not importing the module has drawn numbers


def test_verbose_logs_to_stderr(ffebm: Run) -> None:
    assert ffebm("explain", "zoo_file:Net", "-vv")[2] == ffebm("explain", "zoo_file:Net")[2] == ""
    status, _, err = ffebm("check", "zoo_file:Branching", "--input-shape", "1,3", "-v")
    assert status == 2
    assert "INFO ffebm_compiler.passes.trace" in err


@pytest.mark.slow
def test_it_runs_as_a_program_and_survives_a_closed_pipe(folder: Path) -> None:
    program = [sys.executable, "-m", "ffebm_compiler.cli"]
    done = subprocess.run([*program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"ffebm_compiler {fc.__version__}\n"
    with subprocess.Popen(
        [*program, "explain", "zoo_file:Net"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        running.stdout.close()
        err = running.stderr.read().decode()
    assert "Traceback" not in err
    assert "Exception ignored" not in err
