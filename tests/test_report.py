"""The report: right numbers, a page that needs nothing else, and whatever a file may hold."""

import dataclasses
import json
import math
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from typer.testing import CliRunner

import suture
from suture._record import Row, record, write
from suture._report import lanes
from suture._report.page import duration
from suture._report.read import read
from suture._report.totals import by_step, total
from suture.cli import app
from suture.errors import MethodError

GOOD = {
    "when": 1e9,
    "seconds": 0.5,
    "name": "simulate",
    "task": "gradient",
    "call": 1,
    "points": 1,
    "where": "host:7:MainThread",
    "ended": "value",
    "error": None,
    "hit": False,
    "attempt": 1,
    "step": 0,
    "run": "a",
}


def lines(rows):
    return "".join(json.dumps({**GOOD, **row}) + "\n" for row in rows)


@pytest.fixture
def saved(tmp_path):
    """Return a function that saves rows, and returns the path."""

    def save(*rows, text=""):
        path = tmp_path / "run.jsonl"
        path.write_text(lines(rows) + text)
        return path

    return save


def at(begun, **fields):
    return {"when": 1e9 + begun, **fields}


ONE, TWO = {"where": "host:1:MainThread"}, {"where": "host:2:MainThread"}

# Two workers, one gradient of four calls, one of them tried again, and one more step with a hit.
TRAINING = (
    at(0, seconds=1.0, task="forward"),
    at(1, seconds=2.0, **ONE),
    at(1, seconds=1.0, **TWO, ended="died", error="WorkerDied"),
    at(2, seconds=2.0, **TWO, attempt=2),
    at(3, seconds=1.0, **ONE),
    at(10, seconds=0.0, step=1, call=2, task="forward", hit=True),
    at(10, seconds=3.0, step=1, call=2, points=5, ended="raised", error="KeyError"),
)


def test_totals(saved):
    found = total(read(saved(*TRAINING)))
    assert (found.calls, found.evaluations, found.hits, found.retries) == (6, 10, 1, 1)
    assert found.failures == {("raised", "KeyError"): 1, ("died", "WorkerDied"): 1}
    assert (found.failed, found.steps, found.runs) == (2, 2, 1)
    assert (found.wall, found.seconds, found.parallelism) == (13.0, 10.0, 6.0 / 3.0)
    assert found.share == 1 / 11
    assert [slow.seconds for slow in found.slowest] == [3.0, 2.0, 2.0, 1.0, 1.0, 1.0]
    assert dataclasses.asdict(found.groups[1]) == {
        "name": "simulate", "task": "gradient", "calls": 5, "evaluations": 9, "hits": 0,
        "failures": 2, "seconds": 9.0, "slowest": 3.0,
    }  # fmt: skip


def test_parallelism_is_unknown_without_a_gradient_of_several_calls(saved):
    assert math.isnan(total(read(saved({"task": "forward"}, {"task": "gradient"}))).parallelism)


def test_steps(saved):
    found = by_step(read(saved(*TRAINING)))
    assert found.edges.tolist() == [-0.5, 0.5, 1.5]
    assert {task: n.tolist() for task, n in found.evaluations.items()} == {
        "forward": [1, 0],
        "gradient": [4, 5],
    }
    assert (found.seconds.tolist(), found.wall.tolist()) == ([7, 3], [4, 3])
    assert {kind: n.tolist() for kind, n in found.failures.items()} == {
        "raised": [0, 1],
        "died": [1, 0],
    }
    assert found.hits.tolist() == [0, 1 / 6]
    assert found.so_far.tolist() == [0, 1 / 11]


def test_many_steps_are_means(saved):
    table = read(saved(*({"step": step, "when": step} for step in range(1001))))
    found = by_step(table)
    assert found.width == 3
    assert len(found.seconds) == 334
    np.testing.assert_allclose(found.seconds, 0.5)
    np.testing.assert_allclose(found.evaluations["gradient"], 1.0)
    assert found.edges[-1] == 1000.5


def test_runs_follow_one_another_and_ranks_do_not(saved):
    table = read(
        saved(
            {"when": 100, "step": 0, "run": "a"},
            {"when": 100.1, "step": 0, "run": "b"},
            {"when": 103, "step": 1, "run": "b"},
            {"when": 103, "step": 1, "run": "a"},
            {"when": 9000, "step": 0, "run": "c"},
        )
    )
    assert table.step.tolist() == [0, 0, 1, 1, 2]
    np.testing.assert_allclose(table.begun, [0, 0.1, 3, 3, 3.5])
    assert table.resumed == [3.5]
    assert total(table).wall == 4.0


# ------------------------------------------------------------------------------------------------
# The timeline
# ------------------------------------------------------------------------------------------------


def test_few_calls_are_drawn_one_by_one(saved):
    found = lanes.timeline(read(saved(*TRAINING)))
    assert found.lanes == ["7", "1", "2"]
    assert found.column == 0
    assert {ending: len(boxes) for ending, boxes in found.boxes.items()} == {
        "value": 4, "raised": 1, "died": 1,
    }  # fmt: skip
    np.testing.assert_allclose(found.boxes["died"], [[1, 2, 2 - 0.36, 2 + 0.36]])


def test_many_calls_are_drawn_as_shares_of_time(saved, monkeypatch):
    monkeypatch.setattr(lanes, "_CALLS", 3)
    monkeypatch.setattr(lanes, "COLUMNS", 4)
    rows = [
        {"when": 0, "seconds": 1.5},
        {"when": 1.5, "seconds": 0.0, "ended": "died"},
        {"when": 2.5, "seconds": 1.5},
        {"when": 2.0, "seconds": 0.1, "where": "other", "ended": "raised"},
        {"when": 2.0, "seconds": 0.1, "where": "other", "ended": "canceled"},
        {"when": 0, "hit": True, "where": "parent"},
    ]
    found = lanes.timeline(read(saved(*rows)))
    assert (found.lanes, found.column, found.end) == (["host:7:MainThread", "other"], 1.0, 4.0)
    height, floor = lanes._HEIGHT, lanes._HEIGHT / 2
    for ending, expected in {
        "value": [(0, 1.0, 0.0, 0), (1, 0.5, 0.0, 0), (2, 0.5, 0.0, 0), (3, 1.0, 0.0, 0)],
        "died": [(1, 0.75, 0.5, 0)],  # it took no time, and is seen
        "raised": [(2, 0.125, 0.0, 1)],
        "canceled": [(2, 0.25, 0.125, 1)],
    }.items():
        boxes = [
            (x, x + 1, y + floor - height * t, y + floor - height * b) for x, t, b, y in expected
        ]
        np.testing.assert_allclose(found.boxes[ending], boxes, err_msg=ending)


def test_no_failure_is_drawn_where_there_is_none(saved, monkeypatch):
    monkeypatch.setattr(lanes, "_CALLS", 3)
    rng = np.random.default_rng(0)
    begun = np.cumsum(rng.random(300) / 7)
    rows = [{"when": t, "seconds": 0.1, "ended": "raised"} for t in begun]
    table = read(saved(*rows, {"when": begun[-1] + 1e5, "seconds": 1e5}))
    assert lanes.timeline(table).boxes["raised"][:, 1].max() < begun[-1] + 1000


def test_the_busiest_places_are_drawn(saved):
    rows = [{"where": f"host:{i}:MainThread", "seconds": i + 1, "when": i} for i in range(50)]
    found = lanes.timeline(read(saved(*rows)))
    assert found.lanes == [str(i) for i in range(18, 50)]
    assert found.places == 50


# ------------------------------------------------------------------------------------------------
# What a file may hold
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ['{"when": 1e9, "seco', "\x00\x00", '{"when": '])
def test_a_line_that_was_cut_is_counted(saved, text):
    table = read(saved({}, {}, text=text))
    assert (len(table.when), table.unreadable) == (2, 1)
    assert "One line was cut" in suture.report(table.path, table.path.with_name("p")).read_text()


def test_a_line_that_is_no_text_is_counted(saved):
    path = saved({})
    path.write_bytes(path.read_bytes() + b"\xff\xfe\n" + lines([{}]).encode())
    table = read(path)
    assert (len(table.when), table.unreadable) == (2, 1)


def test_a_row_behind_one_that_was_cut_is_read(saved):
    table = read(
        saved({}, text='{"when": 1e9, "seconds": 0.5, "na' + lines([{"call": 8}]) + "\n\n")
    )
    assert table.call.tolist() == [1, 8]
    assert table.unreadable == 1


def test_other_fields_and_words_are_taken_as_they_are(saved):
    path = saved({"color": [1], "ended": "evaporated", "task": "hessian"}, {"ended": "_"})
    table = read(path)
    assert total(table).failures == {("_", ""): 1, ("evaporated", ""): 1}
    assert "evaporated" in suture.report(path, path.with_suffix(".html")).read_text()


def test_old_rows_with_few_fields_can_be_read(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text('{"when": 1.0, "seconds": 2.0, "name": "f", "ended": "value"}')
    found = total(read(path))
    assert (found.evaluations, found.retries, found.steps) == (1, 0, 1)
    suture.report(path, tmp_path / "page.html")


@pytest.mark.parametrize(
    "text",
    ["", "\n\n", "words\n", "5\n", "[1]\n", "{}\n", '{"when": "now", "seconds": 1}\n',
     '{"when": NaN, "seconds": 1, "name": "f", "ended": "value"}\n',
     '{"when": 1, "seconds": 1, "name": 5, "ended": "value"}\n'],
)  # fmt: skip
def test_what_is_no_record_is_refused(tmp_path, text):
    (tmp_path / "run.jsonl").write_text(text)
    with pytest.raises(MethodError, match="is no record"):
        suture.report(tmp_path / "run.jsonl", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_record_of_a_training_that_goes_on(tmp_path):
    with record(tmp_path / "run.jsonl"):
        for _ in range(2):
            write(Row(time.time(), 0.1, "f", "forward", 1, 1, "h:1:t", "value", None, False, 1))
            suture.report(tmp_path / "run.jsonl", tmp_path / "page.html")
    assert total(read(tmp_path / "run.jsonl")).calls == 2


# ------------------------------------------------------------------------------------------------
# The page
# ------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """The tags of a page, and whether each that was opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(path):
    return suture.report(path, path.with_suffix(".html")).read_text(encoding="utf-8")


def test_the_page_needs_nothing_else(saved):
    text = page_of(saved(*TRAINING))
    tags = Tags(text).found
    assert not {"script", "img", "link", "iframe", "object"} & {tag for tag, _ in tags}
    for _, attributes in tags:
        for name, value in attributes.items():
            if name in ("href", "xlink:href", "src"):
                assert value.startswith("#")
            assert not name.startswith("on")
    assert not re.search(r"@import|url\((?!#)", text)
    figures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(figures) == 4
    for figure in figures:
        ElementTree.fromstring(figure)


def test_the_page_has_colors_for_light_and_dark(saved):
    text = page_of(saved(*TRAINING))
    assert "#0101" not in text  # every stand-in is replaced
    light, dark = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    used = set(re.findall(r"var\((--\w+)\)", text))
    assert used <= set(re.findall(r"(--\w+):", light)) == set(re.findall(r"(--\w+):", dark))
    assert "prefers-color-scheme: dark" in text


def test_without_failures_and_hits_there_are_words(saved):
    text = page_of(saved({}))
    assert "Every call gave a value." in text
    assert "No value came from a memo." in text
    assert text.count("<svg") == 2


@pytest.mark.parametrize("count", [1, 3000])
def test_a_record_of_one_moment_makes_a_page(saved, count):
    assert page_of(saved(*({"seconds": 0.0, "ended": "canceled"} for _ in range(count))))


def test_hits_alone_make_a_page(saved):
    assert "Nothing was called." in page_of(saved({"hit": True}))


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "a & b", "$x_$", "_f", "模拟", "\ud800\x00\n"]
)
def test_names_are_shown_and_never_obeyed(saved, name):
    text = page_of(saved({"name": name, "where": name, "error": name, "ended": name, "task": name}))
    assert "script" not in {tag for tag, _ in Tags(text).found}


def test_the_settings_of_the_user_are_neither_used_nor_changed(saved):
    path = saved(*TRAINING)
    plain = page_of(path)
    with matplotlib.rc_context({"axes.linewidth": 7.0, "xtick.major.size": 20.0}):
        before = dict(matplotlib.rcParams)
        assert page_of(path) == plain
        assert dict(matplotlib.rcParams) == before


def test_a_hundred_thousand_calls_make_a_page_of_a_few_megabytes(tmp_path):
    path = tmp_path / "run.jsonl"
    rng = np.random.default_rng(0)
    seconds = rng.random(100_000).tolist()
    endings = rng.choice(["value", "raised", "died"], 100_000, p=[0.9, 0.05, 0.05]).tolist()
    path.write_text(
        lines(
            {"when": i / 20, "seconds": s, "where": f"host:{i % 40}:t", "ended": e, "step": i // 10}
            for i, (s, e) in enumerate(zip(seconds, endings, strict=True))
        )
    )
    text = page_of(path)
    assert len(text) < 3_000_000
    assert "Each column is the mean of 25 steps." in text
    assert "These 32 of 40 worked longest. There are too many calls to draw each" in text


def test_a_report_does_not_wait_for_torch(saved):
    path = saved({})
    program = f"import sys, suture; suture.report({str(path)!r}, {str(path) + '.html'!r})"
    found = subprocess.run(
        [sys.executable, "-c", f"{program}; print('torch' in sys.modules)"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert found.stdout == "False\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 µs"), (2e-5, "20 µs"), (0.0125, "12.5 ms"), (99.94, "99.9 s"), (100, "1 min 40 s"),
     (3599, "59 min 59 s"), (3661, "1 h 01 min"), (864_000, "10.0 d")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


# ------------------------------------------------------------------------------------------------
# The command
# ------------------------------------------------------------------------------------------------


def test_the_command_prints_totals_and_writes_the_page(saved):
    path = saved(*TRAINING, text="{")
    result = CliRunner().invoke(app, ["report", str(path), "--out", str(path.parent / "new" / "p")])
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{path}: simulate",
        "  evaluations            10  in 6 calls",
        "  optimizer steps        1",
        "  memo hits              1  9%",
        "  calls without a value  2",
        "  retries                1",
        "  on the clock           13 s",
        "  in all calls           10 s",
        "  at once in a gradient  2  median",
        "  raised, KeyError       1",
        "  died, WorkerDied       1",
        "  One line was cut, as a kill or a full disk leaves it, and is not shown.",
        str(path.parent / "new" / "p"),
    ]
    assert (path.parent / "new" / "p").read_text().startswith("<!DOCTYPE html>")


def test_the_page_is_beside_the_record_by_default(saved):
    path = saved({})
    assert CliRunner().invoke(app, ["report", str(path)]).exit_code == 0
    assert path.with_suffix(".html").exists()


def test_the_command_names_some_kinds_of_failures(saved):
    path = saved(*({"ended": "raised", "error": f"Error{i}"} for i in range(8)))
    result = CliRunner().invoke(app, ["report", str(path)])
    assert result.stdout.count("raised, Error") == 5
    assert "and 3 more kinds of failures" in result.stdout


def test_the_command_refuses_what_is_no_record(tmp_path):
    result = CliRunner().invoke(app, ["report", str(tmp_path / "none.jsonl")])
    assert isinstance(result.exception, MethodError)
