"""Programs on the command line: real ones, under real deadlines, killed for real."""

import dataclasses
import inspect
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
from pathlib import Path

import cloudpickle
import numpy as np
import psutil
import pytest
import torch
from engines import ELSEWHERE
from hypothesis import given, settings
from hypothesis import strategies as st
from leftovers import until

import suture
from suture._fingerprint import fingerprint
from suture.errors import BadResult, EvaluationError, MethodError, TimedOut
from suture.executors import Workers
from suture.functions import Command, parse
from suture.functions._folders import KEPT
from suture.functions._guard import _GUARD, guard
from suture.functions._template import Template

pytestmark = pytest.mark.timeout(60)

NUMBER = parse.regex(r"^.+$")
SQUARE = 'BEGIN { printf "%.17g\\n", {a} * {w[0]} ^ 2 + {w[1]} }'
# Nobody waits so long; and other processes that run these tests wait for another time.
EVER = str(10**6 + os.getpid())
"""Seconds that a sleeper sleeps: nobody else's does."""


def square(**options):
    return Command(["awk", SQUARE], **{"parse": NUMBER, **options})


def shell(script, *words, parse=NUMBER, **options):
    return Command(["sh", "-c", script, "sh", *words], parse=parse, **options)


def sleepers():
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if process.info["cmdline"] == ["sleep", EVER]:
            found.append(process)
    return found


@pytest.fixture
def runs(tmp_path):
    """Where a test's programs run; what is left in it has failed."""
    return tmp_path / "runs"


@pytest.fixture(autouse=True)
def nothing_is_left(request):
    """No process outlives a test but the guard, and no file stays open."""
    shell("echo 1", parse=NUMBER)()  # the guard has started
    me = psutil.Process()
    files, children = me.num_fds(), len(me.children(recursive=True))
    yield
    until(lambda: not sleepers())
    if "engine" not in request.fixturenames:  # workers live on, and their guards
        until(lambda: len(me.children(recursive=True)) <= children)
        until(lambda: me.num_fds() <= files)


# What is filled in ------------------------------------------------------------------------------


def filled(text, *, delimiters=("{", "}"), **values):
    template = Template(text, delimiters, "text")
    return template.filled({name: np.asarray(value) for name, value in values.items()})


@settings(derandomize=True, deadline=None, max_examples=500)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_comes_back(number):
    text = filled("x = {x};", x=number)
    assert float(text[4:-1]).hex() == number.hex()


@settings(derandomize=True, deadline=None)
@given(st.text(alphabet=st.characters(exclude_characters="{}$"), max_size=40))
def test_other_text_is_left_alone(text):
    assert filled(f"{text}{{x}}{text}", x=2.0) == f"{text}2{text}"


@pytest.mark.parametrize(
    "text",
    [
        "${x}",
        "{ x }",
        "{}",
        '{"x": 1}',
        "{x: 1}",
        "{x:1}",
        "proc f {a b} { return $a }",
        "FoamFile { version 2.0; }",
        "{x,y}",
        "{1x}",
        "{é}",
        "{x:99999d}",
        "{x:.99999f}",
    ],
)
def test_braces_that_are_text(text):
    assert Template(text, ("{", "}"), "text").slots == []
    assert filled(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{x}", "0.10000000000000001"),
        ("{x:.3e}", "1.000e-01"),
        ("{x:8.3f}|", "   0.100|"),
        ("{w[1]}", "4"),
        ("{w[1]:.1f}", "4.0"),
        ("{m[1, 0]} {m[0,1]}", "6 7"),
        ("{n:d} {n}", "5 5"),
        ("{{x:.1f}}", "{0.1}"),
        ("{w[0]}{w[1]}", "34"),
    ],
)
def test_placeholders(text, expected):
    values = {"x": 0.1, "w": [3.0, 4.0], "m": [[5.0, 7.0], [6.0, 8.0]], "n": np.int64(5)}
    assert filled(text, **values) == expected


def test_large_integers_are_exact():
    assert filled("{n}", n=2**62 + 1) == str(2**62 + 1)


def test_delimiters_can_be_changed():
    assert filled("{x} <<x>>", delimiters=("<<", ">>"), x=2.0) == "{x} 2"
    assert filled("@x@ {x}", delimiters=("@", "@"), x=2.0) == "2 {x}"


def test_words_never_reach_a_shell(tmp_path):
    """A shell would have made the file."""
    word = f"$(touch {tmp_path}/made); `touch {tmp_path}/made` {{x}}"
    code = "import sys; print(len(sys.argv), sys.argv[1].endswith(' 2'))"
    f = Command([sys.executable, "-c", code, word], parse=parse.regex(r"^(\d) True$"))
    assert f(2.0) == 2
    assert not (tmp_path / "made").exists()


# What a call is ---------------------------------------------------------------------------------


def test_names_are_the_arguments():
    f = square()
    assert str(inspect.signature(f)) == "(a, w)"
    assert f(2.0, [3.0, 1.0]) == f(w=np.array([3, 1]), a=2) == 19
    assert repr(f) == "Command(awk(a, w))"


def test_the_order_of_the_arguments_can_be_given():
    assert str(inspect.signature(square(inputs=["w", "a"]))) == "(w, a)"


def test_an_argument_may_have_any_name():
    assert Command(["echo", "{self}{args}"], parse=NUMBER)(self=1, args=2) == 12


def test_an_argument_that_is_missing():
    with pytest.raises(TypeError, match="missing a required argument: 'w'"):
        square()(2.0)


def test_tensors_give_a_tensor_and_arrays_an_array():
    found = square()(2.0, torch.tensor([3.0, 1.0]))
    assert found.dtype == torch.float64
    assert found.shape == ()
    assert isinstance(square()(2.0, [3.0, 1.0]), np.ndarray)
    half = torch.tensor([3.0, 1.0], dtype=torch.bfloat16, requires_grad=True)
    with torch.no_grad():
        assert square()(2.0, half) == 19


def test_lists_of_different_lengths_are_no_argument():
    with pytest.raises(MethodError, match="cannot be written into a template"):
        square()(2.0, [[3.0], [3.0, 1.0]])


def test_one_dimension_more_is_a_batch():
    found = square()(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0]))
    assert found.tolist() == [10, 19]
    assert square()(2.0, np.array([[3.0, 1.0], [1.0, 0.0]])).tolist() == [19, 2]


def test_files_are_written_and_read(runs, tmp_path):
    (tmp_path / "case" / "system").mkdir(parents=True)
    (tmp_path / "case" / "system" / "control").write_text("load { value {p}; }")
    (tmp_path / "case" / "mesh.bin").write_bytes(b"\xff{p}\x00")
    f = shell(
        "cat system/control; wc -c < mesh.bin > size; mkdir out; cp system/control out/a",
        files=tmp_path / "case",
        parse={
            "p": parse.regex(r"value (\S+);", "out/a"),
            "size": parse.table("size"),
            "echo": parse.regex(r"value (\S+);"),
        },
        folder=runs,
    )
    assert f(p=0.1) == {"p": 0.1, "size": 5, "echo": 0.1}
    assert list(runs.iterdir()) == []  # nothing is left


@pytest.mark.parametrize("whole", [False, True], ids=["files", "directory"])
def test_copied_files_keep_their_permissions(tmp_path, whole):
    case = tmp_path / "case"
    case.mkdir()
    (case / "solve").write_text("#!/bin/sh\necho >> in; wc -c < in")
    (case / "in").write_text("{x:.1f}")
    (case / "solve").chmod(0o755)
    (case / "in").chmod(0o440)
    copied = case if whole else {name: case / name for name in ("solve", "in")}
    f = shell("stat -c %a in solve; ./solve", files=copied, parse=parse.regex(r"\d+", count=3))
    assert f(x=0.1).tolist() == [640, 755, 4]  # the copy may be written


def test_all_of_a_directory_is_copied(tmp_path):
    case, elsewhere = tmp_path / "case", tmp_path / "mesh"
    (case / "results").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "points").write_text("7")
    (case / "mesh").symlink_to(elsewhere)
    f = shell("cp mesh/points results/a; cat results/a", files=case)
    assert f() == 7
    assert (elsewhere / "points").read_text() == "7"
    assert list((case / "results").iterdir()) == []
    (case / "mesh" / "lost").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        shell("true", files=case)


def test_a_file_that_cannot_be_run_still_cannot(tmp_path, runs):
    (tmp_path / "solve").write_text("#!/bin/sh\necho 1")
    (tmp_path / "solve").chmod(0o600)
    f = shell("./solve", files={"solve": tmp_path / "solve"}, folder=runs)
    assert "exit code 126" in str(failure(f))


def test_each_run_has_a_fresh_directory(runs):
    f = shell("ls | wc -l; touch made", folder=runs)
    assert f() == f() == 0


def test_variables_and_standard_input(monkeypatch):
    monkeypatch.setenv("OLD", "1")
    f = shell("echo $OLD$NEW; cat", env={"NEW": "2"})
    assert f() == 12
    assert "NEW" not in repr(f)


def test_where_relative_paths_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data.txt").write_text("7")
    Path("run.sh").write_text("#!/bin/sh\ncat $1")
    Path("run.sh").chmod(0o700)
    assert Command(["./run.sh", Path("data.txt")], parse=NUMBER)() == 7
    assert Command([Path("run.sh"), Path("data.txt")], parse=NUMBER)() == 7


@pytest.mark.parametrize(
    "options",
    [
        {"inputs": "aw"},
        {"inputs": ["a", "w", "a"]},
        {"inputs": [1]},
        {"inputs": 2},
        {"ok_codes": 0},
        {"ok_codes": "0"},
        {"ok_codes": ()},
        {"ok_codes": [True]},
        {"ok_codes": [0.0]},
        {"ok_codes": None},
        {"env": ["A=1"]},
        {"env": {"A": 1}},
        {"env": {"A=B": "1"}},
        {"env": {"A": "\0"}},
        {"max_bytes": None},
        {"max_bytes": 1e6},
        {"max_bytes": True},
        {"success": b"x"},
        {"timeout": "60"},
    ],
    ids=str,
)
def test_options_that_are_refused(options):
    with pytest.raises(MethodError, match=f"^`Command\\({next(iter(options))}="):
        square(**options)


@pytest.mark.parametrize(
    "options", [{"inputs": ("a", "w")}, {"ok_codes": range(2)}, {"ok_codes": {0, 3}}], ids=str
)
def test_options_that_are_lawful(options):
    assert square(**options)(2.0, [3.0, 1.0]) == 19


@pytest.mark.parametrize("copy", [pickle, cloudpickle])
def test_it_can_be_pickled(copy):
    f = copy.loads(copy.dumps(square(files={"a.txt": "{a}", "b.bin": b"{b}"})))
    assert f(2.0, [3.0, 1.0]) == 19


# Gradients --------------------------------------------------------------------------------------


def wants(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def gradient(executor=None, **options):
    f = suture.differentiable(square(), executor=executor, **options)
    a, w = torch.tensor(2.0, requires_grad=True), wants(3.0, 1.0)
    f(a, w).backward()
    return [a.grad.item(), *w.grad.tolist()]


TRUTH = pytest.approx([9.0, 12.0, 1.0], rel=1e-6)


def test_a_gradient_through_a_program():
    assert gradient() == TRUTH


@pytest.mark.parametrize("engine", ELSEWHERE, indirect=True)
def test_a_gradient_is_the_same_everywhere(engine):
    assert gradient(engine) == gradient()


def test_a_gradient_of_a_batch_and_of_a_vmap():
    f = suture.differentiable(square(), batch_dims=(None, 0))
    a, w = wants(2.0)[0].detach(), wants([3.0, 1.0], [1.0, 0.0])
    f(a, w).sum().backward()
    mapped = torch.func.vmap(suture.differentiable(square()), in_dims=(None, 0))
    v = w.detach().clone().requires_grad_()
    mapped(a, v).sum().backward()
    truth = pytest.approx(np.array([[12.0, 1.0], [4.0, 1.0]]), rel=1e-6)
    assert w.grad.numpy() == truth
    assert v.grad.numpy() == truth


@pytest.mark.parametrize(
    ("compiler", "suffix", "source"),
    [
        (
            "gcc",
            ".c",
            """
            #include <stdio.h>
            int main() { double x, y; FILE *f = fopen("in.txt", "r");
              if (fscanf(f, "%lf %lf", &x, &y) != 2) return 1;
              printf("f = %.17g\\n", x * x * y); return 0; }
            """,
        ),
        (
            "gfortran",
            ".f90",
            """
            program p
              double precision x, y
              open(1, file="in.txt"); read(1, *) x, y
              write(*, '(A, D25.17)') "f = ", x * x * y
            end program
            """,
        ),
    ],
)
def test_a_compiled_program(tmp_path, compiler, suffix, source):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    (tmp_path / f"p{suffix}").write_text(textwrap.dedent(source))
    program = tmp_path / "program"
    subprocess.run([compiler, "-o", program, tmp_path / f"p{suffix}"], check=True)
    f = suture.differentiable(
        Command([program], {"in.txt": "{x[0]} {x[1]}\n"}, parse=parse.regex(r"f =\s*(\S+)"))
    )
    x = wants(3.0, 2.0)
    f(x).backward()
    assert x.grad.tolist() == pytest.approx([12, 9], rel=1e-6)


# How results are read ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "content", "expected"),
    [
        (parse.json("a", "b", 1), b'{"b": [1, [2, 3.5]]}', [2, 3.5]),
        (parse.json("a"), b"4", 4),
        (parse.csv("a", "u"), b"t, u\n0, 1.5\n\n1, 2.5\n", [1.5, 2.5]),
        (parse.csv("a", "t"), b"\xef\xbb\xbft,u\r\n0,1.5\r\n", [0]),
        (parse.csv("a", -1, header=False, delimiter=";"), b"0;1.5\n1;2D1\n", [1.5, 20]),
        (parse.regex(r"f = (\S+)"), b"f = -1.5D+02\n", -150),
        (parse.regex(r"^(\S+) (\S+)$", count=2), b"1 2\n3 4\n", [[1, 2], [3, 4]]),
        (parse.regex(r"\d+", count=None), b"1 22 3", [1, 22, 3]),
        (parse.regex(r"(\d+)", count=None), b"1", [1]),
        (parse.table("a"), b"# x y\n1 2\n3 4d0\n", [[1, 2], [3, 4]]),
        (parse.table("a", columns=1, skip=1), b"x y\n1 2\n3 4\n", [2, 4]),
        (parse.function(lambda content: torch.tensor([len(content)])), b"abc", [3]),
    ],
)
def test_rules(rule, content, expected):
    found = rule.read(content)
    assert found.dtype == np.float64
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("rule", "content", "why"),
    [
        (parse.json("a", "b"), b'{"b": ', "it is not JSON"),
        (parse.json("a", "b", "c"), b'{"b": [1]}', "it has no ['b']['c']"),
        (parse.json("a", 3), b"[1]", "it has no [3]"),
        (parse.json("a"), b'"4"', "no number"),
        (parse.json("a"), b"true", "no number"),
        (parse.json("a"), b"[[1], [2, 3]]", "no number"),
        (parse.json("a"), b"[[true, 1.5]]", "no number"),
        (parse.json("a"), b"[" * 100_000, "it is not JSON"),
        (parse.json("a"), b"[]", "no number"),
        (parse.csv("a", "u"), b"t,v\n0,1\n", "0 columns 'u'"),
        (parse.csv("a", "u"), b"u,u\n0,1\n", "2 columns 'u'"),
        (parse.csv("a", "u"), b"u\n", "it has no rows"),
        (parse.csv("a", 1), b"t,u\n0,1\n2\n", "a row has 1 columns"),
        (parse.csv("a", "u"), b"u\nx\n", "'x' is not a number"),
        (parse.csv("a", "u"), b"u\n" + b"1" * 200_000, "it is not CSV"),
        (parse.regex(r"\d+"), b"1 2", "matches 2 times, expected 1"),
        (parse.regex(r"\d+", count=None), b"", "matches 0 times, expected at least 1"),
        (parse.regex(r"f = (\S+)"), b"f = ********", "'********' is not a number"),
        (parse.regex(r"f = (\S+)"), b"f = 1_000", "is not a number"),
        (parse.table("a"), b"# nothing\n", "it has no numbers"),
        (parse.table("a"), b"1 2\n3\n", "numpy.loadtxt says"),
        (parse.function(lambda content: 1 / 0), b"", "<lambda> raised ZeroDivisionError"),
        (parse.function(lambda content: None), b"", "the function returned None"),
    ],
)
def test_what_rules_do_not_find(rule, content, why):
    with pytest.raises(parse.Unreadable) as caught:
        rule.read(content)
    assert why in str(caught.value)


def test_nan_is_a_bad_result():
    with pytest.raises(BadResult, match="returned nan"):
        suture.differentiable(shell("echo nan {x}", parse=parse.regex("nan")))(wants(1.0)[0])


# What goes wrong: row 28, garbage ---------------------------------------------------------------


def failure(f, *args):
    with pytest.raises(EvaluationError) as caught:
        f(*args)
    return caught.value


def test_a_missing_result_shows_the_last_lines_and_keeps_the_directory(runs):
    f = shell(
        "seq 100; echo to-stderr >&2; touch made",
        files={"in.txt": "{x}"},
        parse=parse.json("out.json"),
        folder=runs,
    )
    error = failure(f, 2.0)
    assert type(error) is BadResult
    assert "No such file" in str(error)
    lines = error.output.splitlines()
    assert len(lines) == 40
    assert lines[-2:] == ["99", "100"] or lines[-1] == "to-stderr"
    assert any(error.output in note for note in error.__notes__)
    assert [error.folder] == list(runs.iterdir())
    assert sorted(path.name for path in error.folder.iterdir()) == [
        "in.txt",
        "made",
        "stderr.txt",
        "stdout.txt",
    ]
    assert (error.folder / "in.txt").read_text() == "2"


def test_exit_codes(runs):
    assert "exit code 3" in str(failure(shell("echo 1; exit 3", folder=runs)))
    assert "killed by SIGSEGV" in str(failure(shell("kill -SEGV $$", folder=runs)))
    assert shell("echo 1; exit 3", ok_codes=(0, 3))() == 1


def test_a_program_that_removes_its_directory(runs):
    error = failure(shell('echo why; rm -r "$PWD"; exit 3', folder=runs))
    assert "exit code 3" in str(error)
    assert (error.folder / "stdout.txt").read_text() == "why\n"


def test_the_pattern_of_success(runs):
    assert shell("echo 1; echo converged >&2", success="^converged$")() == 1
    assert "did not print" in str(failure(shell("echo 1", success="converged", folder=runs)))


def test_a_result_from_the_run_before_is_not_read(runs):
    once = shell("test -e {x}.flag || echo 5 > out", parse=parse.table("out"), folder=runs)
    assert once(1.0) == 5
    f = shell("true {x}", parse=parse.table("out"), folder=runs)
    assert type(failure(f, 1.0)) is BadResult


@pytest.mark.parametrize("how", ["ln -s ../secret out", "mkfifo out", "mkdir out", "ln -s . out"])
def test_only_files_of_the_run_are_read(runs, how):
    runs.mkdir()
    (runs / "secret").write_text("42")
    assert type(failure(shell(how, parse=parse.table("out"), folder=runs))) is BadResult


@pytest.mark.parametrize("path", ["/etc/hostname", "../x", "a/../../x", "", "a/.."])
def test_paths_do_not_escape(path):
    with pytest.raises(MethodError, match="not a path inside of the run directory"):
        parse.table(path)
    with pytest.raises(MethodError, match="not a path inside of the run directory"):
        square(files={path: ""})


def test_twenty_failed_runs_are_kept(runs):
    f = shell("exit {x:d}", folder=runs)
    errors = [failure(f, i) for i in range(1, KEPT + 4)]
    assert sorted(runs.iterdir()) == sorted(error.folder for error in errors[-KEPT:])


@pytest.mark.parametrize("engine", ELSEWHERE, indirect=True)
def test_an_error_arrives_with_what_it_knows(engine, runs):
    f = suture.differentiable(shell("echo {x}; exit 3", folder=runs), executor=engine)
    error = failure(f, wants(1.0)[0])
    assert "exit code 3" in str(error)
    assert error.output == "1"
    assert error.folder.is_dir()
    assert error.point[0][0] == 1


@pytest.mark.parametrize("engine", ELSEWHERE, indirect=True)
def test_the_deadline_of_the_program_holds_everywhere(engine, runs):
    """And nothing is left, although loky and Dask cannot stop a call."""
    late = shell(f"sleep {EVER} & sleep {EVER} {{x:.0f}}", timeout=0.3, folder=runs)
    assert type(failure(suture.differentiable(late, executor=engine), wants(0.0)[0])) is TimedOut


@pytest.mark.parametrize("engine", ELSEWHERE, indirect=True)
def test_a_program_that_crashes_costs_one_point_everywhere(engine, runs):
    """A program that dies is no worker that dies."""
    script = 'awk "BEGIN { exit $1 > 3 }" || kill -SEGV $$; awk "BEGIN { print $1 * $1 * $2 }"'
    f = suture.differentiable(
        shell(script, "{x[0]}", "{x[1]}", folder=runs),
        method=suture.FiniteDifference(suture.stencils.FORWARD, step=1e-3),
        executor=engine,
        on_failure="one_sided",
        max_failed_fraction=0.5,
    )
    x = wants(3.0, 2.0)
    f(x).backward()
    assert x.grad.tolist() == pytest.approx([12.0, 9.0], rel=1e-2)
    assert (f.tally.failures, f.tally.died, f.last.one_sided) == (1, 0, 1)


# Row 14, too much output ------------------------------------------------------------------------


@pytest.mark.parametrize("redirect", ["", ">&2"])
def test_output_without_end_is_cut(runs, redirect):
    start = time.monotonic()
    error = failure(shell(f"yes {redirect}", max_bytes=1_000_000, folder=runs))
    assert time.monotonic() - start < 5
    assert "printed more than 1000000 bytes" in str(error)
    assert type(error) is BadResult


def test_a_file_that_is_too_long_is_not_read(runs):
    f = shell("head -c 2000 /dev/zero > out", parse=parse.table("out"), max_bytes=1000, folder=runs)
    assert "more than 1000 bytes" in str(failure(f))


def test_long_output_below_the_cap_is_whole():
    f = shell("seq 300000", parse=parse.function(lambda content: content.count(b"\n")))
    assert f() == 300_000


# What a memo sees -------------------------------------------------------------------------------


def test_a_memo_knows_a_program_until_it_changes(tmp_path, runs):
    script = tmp_path / "program.py"
    f = Command(["sh", script], {"in": "{x}"}, parse=parse.table("out"), folder=runs)
    calls = tmp_path / "calls"

    def slope():
        x = wants(2.0)[0]
        memo = suture.Memo(tmp_path / "memo.db")
        y = suture.differentiable(f, memo=memo)(x)
        memo.close()
        return y.item(), len(calls.read_text())

    script.write_text(f"printf x >> {calls}; cp in out")
    assert slope() == slope() == (2, 1)
    script.write_text(f"printf x >> {calls}; echo 5 > out")
    assert slope() == (5, 2)


def test_a_memo_sees_how_a_rule_of_ones_own_reads(tmp_path, runs):
    def slope(factor):
        @dataclasses.dataclass(frozen=True)
        class Scaled(parse.AbstractRule):
            def read(self, content):
                return self.scaled(float(content))

            def scaled(self, number):
                return np.array(factor * number)

        memo = suture.Memo(tmp_path / "memo.db")
        f = Command(["echo", "{x}"], parse=Scaled(parse.STDOUT), folder=runs)
        y = suture.differentiable(f, memo=memo)
        result = y(wants(2.0)[0]).item(), y.tally.hits
        memo.close()
        return result

    assert [slope(1.0), slope(1.0), slope(3.0)] == [(2.0, 0), (2.0, 1), (6.0, 0)]


@pytest.mark.parametrize(
    "other",
    [
        {"files": {"in": "{x:.3e}"}},
        {"files": {"in": b"{x}"}},
        {"parse": parse.regex("y")},
        {"parse": parse.function(len)},
        {"env": {"A": "1"}},
        {"ok_codes": (0, 1)},
        {"success": "x"},
    ],
)
def test_what_a_fingerprint_covers(other):
    def print_of(**options):
        given = {"files": {"in": "{x}"}, "parse": parse.regex("x"), **options}
        return fingerprint(Command(["sh"], **given), "f")

    assert print_of() == print_of()
    assert print_of(timeout=3) == print_of()
    assert print_of(**other) != print_of()


def test_a_memo_sees_whether_a_file_can_be_run(tmp_path):
    script = tmp_path / "solve"
    script.write_text("")

    def print_of(mode):
        script.chmod(mode)
        return fingerprint(Command(["sh"], {"solve": script}, parse=NUMBER), "f")

    assert print_of(0o644) == print_of(0o664) != print_of(0o755)


# Row 15, children -------------------------------------------------------------------------------


def test_children_are_killed_when_the_program_ends():
    start = time.monotonic()
    assert shell(f"sleep {EVER} & echo 1")() == 1
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "script",
    [f"sleep {EVER} & sleep {EVER}", f"trap '' TERM; sleep {EVER}"],
    ids=["with another", "deaf"],
)
def test_a_program_that_is_late_is_killed_with_its_children(runs, script):
    start = time.monotonic()
    error = failure(shell(script, timeout=0.3, folder=runs))
    assert 0.3 <= time.monotonic() - start < 1.3
    assert type(error) is TimedOut


def test_what_a_dying_child_writes_is_removed_too(runs, monkeypatch):
    """A killed process may finish a system call: `rmtree` meets a directory that is not empty."""
    removed, tried = shutil.rmtree, []

    def rmtree(folder, ignore_errors):
        tried.append(folder)
        if len(tried) > 2:
            removed(folder)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    assert shell("echo 1; touch made", folder=runs)() == 1
    assert len(tried) == 3
    assert list(runs.iterdir()) == []


def test_a_program_that_closes_its_streams_is_still_waited_for():
    assert shell("exec >&- 2>&-; sleep 0.2; echo 5 > out", parse=parse.table("out"))() == 5


@pytest.mark.parametrize("missing", [["pidfd_open"], ["pidfd_open", "waitid"]])
def test_where_the_kernel_does_not_tell_the_end(monkeypatch, runs, missing):
    for name in missing:
        monkeypatch.delattr(os, name)
    assert shell(f"sleep {EVER} & seq 20000 | tail -1")() == 20000
    assert type(failure(shell(f"sleep {EVER}", timeout=0.2, folder=runs))) is TimedOut


def test_an_interrupt_kills_the_program(runs):
    def interrupt():
        until(lambda: len(sleepers()) == 2)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        shell(f"sleep {EVER} & sleep {EVER}", folder=runs)()
    thread.join()
    assert list(runs.iterdir()) == []


def test_a_deadline_of_the_pool_kills_the_program():
    with Workers(1) as pool:
        f = suture.differentiable(
            shell(f"sleep {EVER} & sleep {EVER} {{x:.0f}}"), executor=pool, timeout=0.5
        )
        assert type(failure(f, wants(0.0)[0])) is TimedOut
        until(lambda: not sleepers())


# Row 16, orphans --------------------------------------------------------------------------------

TRAINER = f"""
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from suture.functions import Command, parse

def pool():
    if sys.argv[1] == "threads":
        return ThreadPoolExecutor(2)
    if sys.argv[1] == "processes":
        return ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))
    import loky
    return loky.get_reusable_executor(2)

f = Command(
    ["sh", "-c", "sleep {EVER} & sleep {EVER}"], parse=parse.regex("1"), folder=sys.argv[2]
)
if __name__ == "__main__":
    executor = pool()
    futures = [executor.submit(f) for _ in range(2)]
    futures[0].result()
"""


@pytest.mark.parametrize("kind", ["threads", "processes", "loky"])
def test_no_orphan_is_left_when_the_trainer_is_killed(tmp_path, kind):
    """And no directory: not of the runs, whatever is written there by what is being killed."""
    if kind == "loky":
        pytest.importorskip("loky")
    (tmp_path / "trainer.py").write_text(TRAINER)
    folder = tmp_path / "of all runs: é"
    trainer = subprocess.Popen(
        [sys.executable, tmp_path / "trainer.py", kind, folder], stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: len(sleepers()) == 4, 30.0)
        assert len(list(folder.iterdir())) == 2
    finally:
        trainer.kill()
        trainer.wait()
    until(lambda: not sleepers())
    # Those of a pool's workers are failures, which are kept, if the guard is not first.
    until(lambda: not list(folder.glob("run-*")))


@pytest.mark.parametrize("name", ["two\nlines", "plain"])
def test_the_guard_is_told_only_what_it_can_read(monkeypatch, tmp_path, name):
    told = []
    monkeypatch.setattr(guard, "_pipe", lambda: types.SimpleNamespace(write=told.append))
    monkeypatch.setattr("suture.functions._guard._write", lambda pipe, line: pipe.write(line))
    with guard.watching(tmp_path / name):
        guard.watch(7)
    guard.forget(7)
    lines = b"".join(told).decode().split("\n")
    assert lines[-2] == "//."
    if name == "plain":
        assert f"7/{tmp_path}/plain//." in lines
    assert all(line.endswith("//.") for line in lines if line)


def test_a_guard_leaves_alone_what_it_was_not_told_in_full(tmp_path):
    """The trainer died while it wrote a line; and what is no directory of a run is nobody's."""
    for name in ("run-a b", "run-c", "other"):
        (tmp_path / name).mkdir()
    process = subprocess.Popen(["/bin/sh", "-c", _GUARD], stdin=subprocess.PIPE)
    process.stdin.write(f"\n/{tmp_path}/run-a b//{tmp_path}/other//.\n\n/{tmp_path}/run-c".encode())
    process.stdin.close()
    assert process.wait(10) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "run-c"]


def test_a_program_does_not_start_before_the_guard_knows_of_it(monkeypatch, tmp_path):
    """The trainer dies at the worst moment: the program was born, and nobody was told."""

    def die(group):
        raise KeyboardInterrupt

    monkeypatch.setattr(guard, "watch", die)
    with pytest.raises(KeyboardInterrupt):
        shell(f"touch {tmp_path}/started; sleep {EVER}")()
    time.sleep(0.1)
    assert not (tmp_path / "started").exists()


def test_a_guard_that_was_killed_is_replaced():
    killed = guard._process
    killed.kill()
    killed.wait()
    assert shell("echo 1")() == 1
    assert guard._process is not killed


FORKING = """
import os
from suture.functions import Command, parse
from suture.functions._guard import guard

f = Command(["echo", "1"], parse=parse.regex("1"))
f()
mine = guard._process
if (child := os.fork()) == 0:
    assert guard._process is None
    f()
    guard.close()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert mine.poll() is None
f()
"""


def test_a_forked_child_has_a_guard_of_its_own():
    """And warnings are errors in it."""
    subprocess.run([sys.executable, "-W", "error", "-c", FORKING], check=True)


def test_it_costs_a_millisecond_beside_a_plain_subprocess():
    """Measured: 1.6 ms against 0.65 ms. The bound is for busy machines."""
    f = Command(["true"], parse=parse.function(lambda content: 1.0))

    def median(call):
        times = []
        for _ in range(20):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return sorted(times)[10]

    plain = median(lambda: subprocess.run(["true"], capture_output=True, check=True))
    assert median(f) < plain + 0.01
