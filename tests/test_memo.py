"""The memo: keys by content, values to the last bit, and nothing lost to whatever happens to it."""

import collections
import contextlib
import copy
import dataclasses
import functools
import math
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import sqlite3
import stat
import struct
import subprocess
import sys
import threading
import time
import warnings
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from memo_writers import (
    check_rows,
    find_damage,
    key_of,
    value_of,
    write_all,
    write_on,
)
from typer.testing import CliRunner

import suture._fingerprint
import suture._memo
import suture._memo_file
from suture import _tree
from suture._content import decoded, encoded
from suture._fingerprint import fingerprint
from suture._memo import Counts, Memo
from suture.cli import app
from suture.errors import BadResult, MethodError

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["suture._memo"])  # torch is imported once


@pytest.fixture
def memo(tmp_path):
    with Memo(tmp_path / "memo.db") as memo:
        yield memo


@pytest.fixture(scope="module")
def some_memo(tmp_path_factory):
    with Memo(tmp_path_factory.mktemp("memo") / "memo.db") as memo:
        yield memo


# ------------------------------------------------------------------------------------------------
# Keys and values are content, to the last bit
# ------------------------------------------------------------------------------------------------


def identity(value):
    """Say what a value is, by other means than the memo's."""
    if isinstance(value, torch.Tensor):
        flat = value.contiguous().reshape(-1)
        return "tensor", value.dtype, tuple(value.shape), bytes(flat.view(torch.uint8).tolist())
    if isinstance(value, np.ndarray | np.generic):
        return type(value), value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, float):
        return float, struct.pack("d", value)
    if isinstance(value, complex):
        return complex, struct.pack("dd", value.real, value.imag)
    if isinstance(value, tuple | list):
        return type(value), tuple(map(identity, value))
    if isinstance(value, dict):
        return dict, tuple((identity(k), identity(v)) for k, v in value.items())
    return type(value), value


def nan(payload):
    return struct.unpack("<d", struct.pack("<Q", 0x7FF8_0000_0000_0000 + payload))[0]


EIGHT_BYTES = np.array([1.0])
CONFUSABLE = [
    *(1, 1.0, True, "1", 1j, np.float64(1), np.float32(1), np.int64(1), np.bool_(True)),
    *(0, 0.0, -0.0, False, "", "0", None, "None", 256, -1, 255, 2**63, -(2**63), 10**30),
    *(nan(0), nan(1), -nan(0), math.inf, complex(0.0, -0.0), 0j, "\ud800", "é"),
    *(EIGHT_BYTES.view(kind) for kind in ("f8", ">f8", "i8", "u8", "f4", "i4", "S8", "M8[s]")),
    *(np.zeros(shape) for shape in ((), (1,), (0,), (0, 2), (2, 0), (1, 1))),
    *(np.array([x]) for x in (-0.0, nan(0), nan(1))),
    *(torch.ones(2, dtype=dtype) for dtype in (torch.float16, torch.bfloat16, torch.int16)),
    *(torch.tensor([x], dtype=torch.float64) for x in (0.0, -0.0, nan(0), nan(1), 1.0)),
    *(torch.tensor(1.0, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)),
    *(np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(3, 2), np.arange(6.0).reshape(3, 2).T),
]
NESTED = st.recursive(
    st.sampled_from(CONFUSABLE),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from(["a", "b", "1"]), inner, max_size=2)
    ),
    max_leaves=5,
)
ARRAYS = hnp.arrays(
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="?")
    | hnp.floating_dtypes(endianness="?")
    | hnp.complex_number_dtypes(endianness="?", sizes=(64, 128)),
    hnp.array_shapes(min_dims=0, min_side=0),
)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.complex_numbers()


def key_at(memo, *args, precision=torch.float64, fn=b"f", **kwargs):
    leaves, tree = _tree.flatten((args, kwargs))
    return memo.key(fn, tree, leaves, precision)


def test_no_two_of_the_confusable_share_a_key(some_memo):
    keys = {}
    for value in CONFUSABLE:
        keys.setdefault(key_at(some_memo, value), set()).add(identity(value))
    assert all(len(values) == 1 for values in keys.values())
    assert len(keys) == len(set(map(identity, CONFUSABLE)))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(first=NESTED, second=NESTED)
def test_keys_are_equal_if_and_only_if_the_arguments_are(some_memo, first, second):
    same = identity(first) == identity(second)
    assert (key_at(some_memo, first) == key_at(some_memo, second)) == same
    assert (key_at(some_memo, w=first) == key_at(some_memo, w=second)) == same
    assert key_at(some_memo, first) != key_at(some_memo, w=first)
    assert key_at(some_memo, first, second) != key_at(some_memo, (first, second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (((1,), 2), (1, (2,))),
        ((1, 2), [1, 2]),
        ({"a": 1}, collections.OrderedDict(a=1)),
        ({"a": 1}, {"b": 1}),
        ({"1": 1}, {1: 1}),
        ((), []),
        ((), ((),)),
        (("ab", "c"), ("a", "bc")),
        (collections.namedtuple("P", "x")(1), collections.namedtuple("Q", "x")(1)),
        (collections.defaultdict(int, a=1), collections.defaultdict(float, a=1)),
    ],
    ids=repr,
)
def test_keys_tell_structures_apart(memo, first, second):
    assert key_at(memo, first) != key_at(memo, second)
    assert key_at(memo, first) == key_at(memo, copy.deepcopy(first))


def test_keys_depend_on_function_and_precision(memo):
    leaves, tree = _tree.flatten(((np.ones(2),), {}))
    keys = {
        memo.key(fn, tree, leaves, precision)
        for fn in (b"f", b"g")
        for precision in (None, torch.float64, torch.float32)
    }
    assert len(keys) == 6


def test_views_and_gradients_do_not_change_a_key(memo):
    x = torch.arange(12.0).reshape(3, 4)
    assert key_at(memo, x.t()) == key_at(memo, x.t().contiguous().requires_grad_())
    assert key_at(memo, x.t()) != key_at(memo, x.reshape(4, 3))
    z = torch.complex(x, x)
    assert key_at(memo, z.conj()) == key_at(memo, z.conj().resolve_conj())
    assert key_at(memo, z.conj()) != key_at(memo, z)
    large = np.arange(5000.0)
    assert key_at(memo, large[::2]) == key_at(memo, large[::2].copy())


@pytest.mark.parametrize(
    "leaf",
    [
        object(),
        b"bytes"[0:0].join,
        np.array([object()]),
        np.ones(2, "f4,f4"),
        np.ma.masked_array([1.0], [True]),
        np.longdouble(1),
        np.ones(1, np.longdouble),
        torch.ones(2).to_sparse(),
    ],
    ids=lambda leaf: type(leaf).__name__,
)
def test_other_leaves_are_refused_by_name(memo, leaf):
    for call in ({"args": (1.0, [leaf]), "kwargs": {}}, {"args": (), "kwargs": {"w": leaf}}):
        with pytest.raises(MethodError, match=r"`args\[1\]\[0\]`|`kwargs\['w'\]`"):
            key_at(memo, *call["args"], **call["kwargs"])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(NESTED | st.recursive(ARRAYS | PLAIN, lambda s: st.lists(s) | st.tuples(s, s), max_leaves=6))
def test_values_come_back_to_the_last_bit(value):
    assert identity(decoded(encoded(value))) == identity(value)


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.float8_e4m3fn, torch.complex64, torch.complex128),
    ],
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
def test_tensors_of_all_types_come_back(memo, dtype, shape):
    value = torch.full(shape, 1.5).to(dtype)
    key = key_at(memo, value)
    assert identity(memo.put(key, {"y": [value]})) == identity({"y": [value]})
    assert identity(memo.get(key)) == identity({"y": [value]})


def test_values_are_copies(memo):
    key, y, t = key_at(memo, 1), np.ones(2), torch.ones(2)
    stored = memo.put(key, (y, t))
    y += 1
    stored[0][:] = 5
    stored[1][:] = 5
    found = memo.get(key)
    found[0][:] = 7
    assert [part.tolist() for part in memo.get(key)] == [[1, 1], [1, 1]]


def test_the_first_value_stays(memo):
    key = key_at(memo, 1)
    assert memo.get(key) is None
    assert memo.put(key, 1.0) == 1.0
    assert memo.put(key, 2.0) == 1.0
    assert memo.get(key) == 1.0
    assert memo.counts == Counts(hits=1, misses=1, writes=1)


def test_none_can_be_put(memo):
    key = key_at(memo, 1)
    assert memo.put(key, None) is None
    assert memo.put(key, None) is None
    assert memo.get(key) is None
    assert memo.counts == Counts(hits=1, writes=1)


Point = collections.namedtuple("Point", "x")


@dataclasses.dataclass
class Result:
    y: float


@pytest.mark.parametrize(
    "value", [object(), Point(1.0), Result(1.0), [{"y": {1.0}}], collections.OrderedDict(a=1)]
)
def test_values_that_would_change_are_refused(memo, value):
    with pytest.raises(BadResult):
        memo.put(key_at(memo, 1), value)
    assert memo.get(key_at(memo, 1)) is None


def test_the_file_holds_no_pickle(memo, monkeypatch):
    for name in ("loads", "load", "dumps", "dump"):
        monkeypatch.setattr(pickle, name, lambda *_: pytest.fail("pickled"))
    memo.put(key_at(memo, 1), {"a": (np.ones(2), torch.ones(2), None, "text", 1, 2j)})
    memo.get(key_at(memo, 1))


# ------------------------------------------------------------------------------------------------
# Fingerprints of functions
# ------------------------------------------------------------------------------------------------

GAIN = 2.0


def amplified(x):
    return helped(x) * GAIN


def helped(x):
    return np.tanh(x) + math.sin(x)


def countdown(n):
    return 0 if n == 0 else countdown(n - 1)


def made(source, **names):
    exec(source, names)
    return names["f"]


def marks(fn):
    return fingerprint(fn, "f")


VARIANTS = [
    "def f(x): return x + 1",
    "def f(x): return x + 1.0",
    "def f(x): return x + True",
    "def f(x): return x - 1",
    "def f(x): return x + 0.0",
    "def f(x): return x + -0.0",
    "def f(x, y=1): return x + 1",
    "def f(x, y=2): return x + 1",
    "def f(x, *, y=2): return x + 1",
    "def f(x): return x.real",
    "def f(x): return x.imag",
    "def f(x): return (lambda y: y + 1)(x)",
    "def f(x): return (lambda y: y + 2)(x)",
    "def f(x): return [y in {1, 2} for y in x]",
    "def f(x): return [y in {1, 3} for y in x]",
    "def f(x):\n try: return 1 / x\n except ValueError: return x",
    "def f(x):\n try: return 1 / x\n except KeyError: return x",
    "def f(x):\n import json\n return x",
    "def h(x): return 1\ndef f(x): return h(x)",
    "def h(x): return 2\ndef f(x): return h(x)",
    "A = 1\ndef f(x): return A",
    "A = 2\ndef f(x): return A",
    "A = (1, (2,))\ndef f(x): return A",
    "def g(a):\n def f(x): return a\n return f\nf = g(1)",
    "def g(a):\n def f(x): return a\n return f\nf = g(2)",
    "def g(a):\n def f(x): return a(x)\n return f\nf = g(lambda x: 1)",
    "def g(a):\n def f(x): return a(x)\n return f\nf = g(lambda x: 2)",
    "def f(x): return f.power\nf.power = 1",
    "def f(x): return f.power\nf.power = 2",
]


def test_a_changed_function_has_another_fingerprint():
    found = [marks(made(source)) for source in VARIANTS]
    assert len(set(found)) == len(found)
    assert found == [marks(made(source)) for source in VARIANTS]


def test_where_a_function_stands_does_not_matter():
    moved = "\n\n# a comment\ndef f(x):\n    return x + 1\n"
    assert marks(made(moved)) == marks(made(VARIANTS[0]))


def test_running_a_function_does_not_change_its_fingerprint():
    before = marks(amplified), marks(countdown)
    for _ in range(100):  # Python specializes the code of what runs often
        amplified(0.5), countdown(3)
    assert (marks(amplified), marks(countdown)) == before


def test_globals_are_looked_at_again(monkeypatch):
    before = marks(amplified)
    monkeypatch.setitem(globals(), "GAIN", 3.0)
    assert marks(amplified) != before
    monkeypatch.setitem(globals(), "GAIN", 2.0)
    assert marks(amplified) == before
    monkeypatch.setitem(globals(), "helped", lambda x: x)
    assert marks(amplified) != before


def test_fingerprints_are_the_same_in_another_process(tmp_path):
    (tmp_path / "box.py").write_text(
        "import numpy as np, math\nfrom suture._fingerprint import fingerprint\n"
        "def h(x): return x in {'a', 'b', 'c', 1.0, None}\n"
        "def f(x): return h(x) + np.tanh(x) + math.sin(1)\n"
        "if __name__ == '__main__': print(fingerprint(f, 'f').hex())\n"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, tmp_path / "box.py"],
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in "12"
    ]
    found = {run.communicate(timeout=60)[0] for run in runs}
    assert len(found) == 1
    assert len(found.pop()) == 65


def test_a_partial_counts_with_its_arguments():
    found = [
        marks(functools.partial(helped, *args, **kwargs))
        for args, kwargs in [((), {}), ((1,), {}), ((1.0,), {}), ((), {"y": 1}), ((), {"z": 1})]
    ]
    assert len(set(found)) == 5


@pytest.mark.parametrize("fn", [np.tanh, math.sin, torch.sin, np.sum, torch.nn.functional.relu])
def test_functions_of_libraries_have_fingerprints(fn):
    assert len({marks(fn), marks(np.cos), marks(torch.cos), marks(math.cos)}) == 4


def test_a_module_of_the_user_counts_by_its_file(tmp_path, monkeypatch):
    sources = "import gains\ndef f(x): return gains.run(x)", "def f(x):\n import gains\n return x"
    found = set()
    for gain in ("1", "2"):
        (tmp_path / gain).mkdir()
        (tmp_path / gain / "gains.py").write_text(f"def run(x): return {gain} * x\n")
        suture._fingerprint._imported.cache_clear()
        with monkeypatch.context() as context:
            context.syspath_prepend(tmp_path / gain)
            found |= {marks(made(source)) for source in sources}
            del sys.modules["gains"]
    suture._fingerprint._imported.cache_clear()
    assert len(found) == 4


def test_what_catches_exceptions_counts():
    bare = made(VARIANTS[0])
    bare.__code__ = bare.__code__.replace(co_exceptiontable=b"\x80\x02\x04\x00")
    assert marks(bare) != marks(made(VARIANTS[0]))


class Machine:
    gain = 2.0

    def run(self, x):
        return self.gain * x

    __call__ = run


def closing_over(held):
    def f(x):
        return held, x

    return f


@pytest.mark.parametrize(
    "held",
    [
        Machine(),
        Machine().run,
        Machine,
        torch.nn.Linear(1, 1),
        np.ones(2),
        torch.ones(2),
        [1],
        {"a": 1},
        (1, [2]),
        np.vectorize(abs),
        np.frompyfunc(abs, 1, 1),
        [].append,
        functools.lru_cache(helped),
    ],
    ids=lambda held: type(held).__name__,
)
def test_what_may_change_unseen_asks_for_a_version(held):
    places = [
        closing_over(held),
        made("def f(x): return A", A=held),
        functools.partial(helped, y=held),
        functools.partial(closing_over(1), held),
    ]
    for fn in places if not callable(held) else [held, *places]:
        with pytest.raises(MethodError, match='version="1"'):
            marks(fn)
        assert len(fingerprint(fn, "f", version="1")) == 32


def test_a_version_pins(monkeypatch):
    pinned = fingerprint(amplified, "f", version="1")
    monkeypatch.setitem(globals(), "GAIN", 3.0)
    assert fingerprint(amplified, "f", version="1") == pinned
    others = [("f", "2"), ("f", 1), ("g", "1"), ("f1", "")]
    assert len({pinned, *(fingerprint(amplified, *other) for other in others)}) == 5


# ------------------------------------------------------------------------------------------------
# Many at once
# ------------------------------------------------------------------------------------------------


def test_four_writers_agree_on_every_value(tmp_path):
    path, count = tmp_path / "memo.db", 300
    barrier, queue = processes.Barrier(4), processes.Queue()
    writers = [
        processes.Process(target=write_all, args=(path, barrier, queue, seed, count))
        for seed in range(4)
    ]
    for writer in writers:
        writer.start()
    results = [queue.get(timeout=30) for _ in writers]
    for writer in writers:
        writer.join(20)
    assert all(got == results[0][0] for got, _ in results)
    assert sum(counts.writes for _, counts in results) == count
    assert all(counts.failed_writes == counts.bad_rows == 0 for _, counts in results)
    assert check_rows(path) == ("ok", count, 0)


def test_two_threads_share_a_memo(memo):
    barrier, results = threading.Barrier(2, timeout=20), []

    def work(seed):
        barrier.wait()
        got = [memo.put(key_of(memo, number), seed) for number in range(300)]
        results.append((got, [memo.get(key_of(memo, number)) for number in range(300)]))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results[0] == results[1]
    assert results[0][0] == results[0][1]
    assert memo.counts == Counts(hits=600, writes=300)


def test_kill_9_loses_and_damages_nothing(tmp_path):
    path, random_ = tmp_path / "memo.db", random.Random(0)
    rows = []
    for run in range(15):
        writer = processes.Process(target=write_on, args=(path, run * 100_000))
        writer.start()
        deadline = time.monotonic() + 20
        while not has_rows(path, run * 100_000):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(random_.uniform(0, 0.05))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join(20)
        verdict, good, bad = check_rows(path)
        assert (verdict, bad) == ("ok", 0)
        rows.append(good)
    assert rows == sorted(set(rows))
    with Memo(path) as memo:
        for run in range(15):
            number = run * 100_000
            assert memo.get(key_of(memo, number)).tolist() == value_of(number).tolist()
            assert memo.put(key_of(memo, number), 0.0).tolist() == value_of(number).tolist()


def has_rows(path, number):
    """Whether a row is in a file, asked without making the file."""
    if not path.exists():
        return False
    database = sqlite3.connect(path, timeout=20)
    with contextlib.closing(database), contextlib.suppress(sqlite3.OperationalError):
        key = key_of(KEYS, number)
        return bool(database.execute("SELECT 1 FROM memo WHERE key = ?", (key,)).fetchall())
    return False


@pytest.fixture(autouse=True, scope="module")
def _keys(tmp_path_factory):
    global KEYS
    with Memo(tmp_path_factory.mktemp("keys") / "memo.db") as KEYS:
        yield


def test_a_fork_gets_a_connection_of_its_own(memo):
    memo.put(key_of(memo, 1), 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            found = memo.get(key_of(memo, 1)), memo.put(key_of(memo, 2), 2.0)
            status = 0 if found == (1.0, 2.0) and len(suture._memo_file._INHERITED) == 1 else 2
        os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert memo.get(key_of(memo, 2)) == 2.0


def test_pickling_passes_the_path(memo):
    memo.put(key_of(memo, 1), 1.0)
    content = pickle.dumps(memo)
    assert len(content) < 200 + len(str(memo.path))
    with pickle.loads(content) as other:
        assert other.path == memo.path
        assert other.counts == Counts()
        assert other.get(key_of(memo, 1)) == 1.0
    assert memo.get(key_of(memo, 1)) == 1.0  # still open


def test_a_thread_that_ends_closes_its_connection(memo):
    def work():
        memo.put(key_of(memo, 1), 1.0)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert len(memo._file._all) == 1


def test_a_closed_memo_says_so(tmp_path):
    with Memo(tmp_path / "memo.db") as memo:
        memo.put(key_of(memo, 1), 1.0)
    for use in (lambda: memo.get(b"k"), lambda: memo.put(b"k", 1.0), memo.info):
        with pytest.raises(MethodError, match="is closed"):
            use()
    memo.close()
    assert not list(tmp_path.glob("*-wal"))


# ------------------------------------------------------------------------------------------------
# Disks
# ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def one_warning(words):
    """Let a block warn exactly once, with these words."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert len(caught) == 1
    assert words in str(caught[0].message)


def test_the_file_is_the_users_alone(tmp_path):
    before = os.umask(0)
    try:
        with Memo(tmp_path / "runs" / "memo.db") as memo:
            memo.put(key_of(memo, 1), 1.0)
            modes = {
                path.name: stat.S_IMODE(path.stat().st_mode)
                for path in [tmp_path / "runs", *(tmp_path / "runs").iterdir()]
            }
    finally:
        os.umask(before)
    assert modes == {"runs": 0o700, "memo.db": 0o600, "memo.db-wal": 0o600, "memo.db-shm": 0o600}


def test_a_directory_that_was_there_keeps_its_mode(tmp_path):
    tmp_path.chmod(0o755)
    Memo(tmp_path / "memo.db").close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_full_file_costs_one_warning_and_no_value(memo):
    memo.put(key_of(memo, 0), np.ones(3))
    database = memo._file._connected().database
    ((pages,),) = database.execute("PRAGMA page_count")
    database.execute(f"PRAGMA max_page_count={pages + 2}")
    with one_warning("full"):
        for number in range(1, 20):
            assert memo.put(key_of(memo, number), np.ones(1000)).tolist() == [1.0] * 1000
    assert memo.counts.failed_writes + memo.counts.writes == 20
    assert memo.counts.failed_writes > 15
    assert memo.get(key_of(memo, 0)).tolist() == [1.0] * 3
    database.execute(f"PRAGMA max_page_count={pages + 1000}")
    assert memo.put(key_of(memo, 99), np.ones(1000)).size == 1000
    assert memo.get(key_of(memo, 99)).size == 1000  # it goes on when there is room again


def test_a_value_that_is_too_large_for_sqlite_is_not_kept(memo):
    memo._file._connected().database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 5000)
    with one_warning("too big"):
        assert memo.put(key_of(memo, 1), np.ones(1000)).size == 1000
    assert memo.counts == Counts(failed_writes=1)
    assert memo.put(key_of(memo, 1), np.ones(10)).size == 10


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_costs_one_warning_and_no_value(small_disk):
    with one_warning("cannot be used now"), Memo(small_disk / "memo.db") as memo:
        for number in range(200):
            assert memo.put(key_of(memo, number), np.full(500, number)).tolist()[-1] == number
        counts = memo.counts
        kept = [n for n in range(200) if memo.get(key_of(memo, n)) is not None]
    assert counts.failed_writes > 100
    assert kept == list(range(counts.writes))
    assert counts.writes > 5
    verdict, good, bad = check_rows(small_disk / "memo.db")
    assert (verdict, good, bad) == ("ok", counts.writes, 0)


def test_a_memo_can_be_begun_on_a_full_disk(small_disk):
    with contextlib.suppress(OSError), (small_disk / "filling").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    with one_warning("cannot be used now"), Memo(small_disk / "memo.db") as memo:
        assert memo.put(key_of(memo, 1), 1.0) == 1.0
        assert memo.get(key_of(memo, 1)) is None
        assert memo.counts == Counts(misses=1, failed_writes=1)
        (small_disk / "filling").unlink()
        assert memo.put(key_of(memo, 1), 1.0) == 1.0
        assert memo.get(key_of(memo, 1)) == 1.0


def test_a_file_that_others_hold_is_not_waited_for_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr(suture._memo_file, "PATIENCE", 0.1)
    with Memo(tmp_path / "memo.db") as memo:
        other = sqlite3.connect(memo.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        start = time.monotonic()
        with one_warning("locked"):
            for number in range(20):
                assert memo.put(key_of(memo, number), 1.0) == 1.0
        assert 0.1 <= time.monotonic() - start < 1.9
        assert memo.counts == Counts(failed_writes=20)
        other.execute("COMMIT")
        other.close()
        monkeypatch.setattr(memo, "_paused_until", 0.0)
        memo.put(key_of(memo, 1), 1.0)
        assert memo.counts.writes == 1


def test_a_network_file_system_gets_the_slower_journal(tmp_path, monkeypatch):
    monkeypatch.setattr(suture._memo_file, "file_system", lambda _: "nfs4")
    with one_warning("write-ahead"), Memo(tmp_path / "memo.db") as memo:
        memo.put(key_of(memo, 1), 1.0)
        thread = threading.Thread(target=memo.get, args=(key_of(memo, 1),))
        thread.start()
        thread.join(20)
        assert memo.info().journal == "delete"
        assert memo.counts == Counts(hits=1, writes=1)
        assert not list(tmp_path.glob("*-wal"))


def test_a_refused_log_gets_the_slower_journal(tmp_path, monkeypatch):
    class Refusing(sqlite3.Connection):
        def execute(self, statement, values=()):
            if statement == "PRAGMA journal_mode=wal":
                return super().execute("PRAGMA journal_mode=delete")
            return super().execute(statement, values)

    connect = functools.partial(sqlite3.connect, factory=Refusing)
    monkeypatch.setattr(suture._memo_file.sqlite3, "connect", connect)
    with one_warning("write-ahead"), Memo(tmp_path / "memo.db") as memo:
        assert memo.info().journal == "delete"


def test_others_that_begin_the_same_file_are_waited_for(tmp_path, monkeypatch):
    refusals = []

    class Busy(sqlite3.Connection):
        def execute(self, statement, values=()):
            if statement == "PRAGMA journal_mode=wal" and len(refusals) < 3:
                refusals.append(sqlite3.OperationalError("database is locked"))
                refusals[-1].sqlite_errorcode = sqlite3.SQLITE_BUSY
                raise refusals[-1]
            return super().execute(statement, values)

    connect = functools.partial(sqlite3.connect, factory=Busy)
    monkeypatch.setattr(suture._memo_file.sqlite3, "connect", connect)
    with Memo(tmp_path / "memo.db") as memo:
        assert memo.put(key_of(memo, 1), 1.0) == 1.0
        assert memo.info().journal == "wal"
        assert memo.counts == Counts(writes=1)
    assert len(refusals) == 3


def test_the_file_system_is_known():
    if not Path("/proc/self/mounts").exists():
        pytest.skip("only Linux tells")
    assert suture._memo_file.file_system(Path("/proc/self/status")) == "proc"


def test_durable_memos_wait_for_the_disk(tmp_path):
    for durable, level in ((False, 1), (True, 2)):
        with Memo(tmp_path / f"{durable}.db", durable=durable) as memo:
            database = memo._file._connected().database
            assert database.execute("PRAGMA synchronous").fetchall() == [(level,)]
            assert pickle.loads(pickle.dumps(memo)).durable == durable


# ------------------------------------------------------------------------------------------------
# Damage
# ------------------------------------------------------------------------------------------------


def filled(path, count=200):
    with Memo(path) as memo:
        for number in range(count):
            memo.put(key_of(memo, number), value_of(number))


def run_sql(path, statement, *values):
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(statement, values)
    database.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda row: row[:-1],
        lambda row: b"",
        lambda row: row + b"\0",
        lambda row: row[:20] + bytes([row[20] ^ 1]) + row[21:],
        lambda row: row[:-1] + bytes([row[-1] ^ 1]),
        lambda row: b"SUT\x02" + row[4:],
        lambda row: "text",
        lambda row: 17,
    ],
)
def test_a_damaged_row_is_a_miss_and_is_written_anew(memo, damage):
    key = key_of(memo, 7)
    memo.put(key, value_of(7))
    database = memo._file._connected().database
    ((row,),) = database.execute("SELECT value FROM memo")
    database.execute("UPDATE memo SET value = ?", (damage(row),))
    assert memo.get(key) is None
    assert memo.put(key, value_of(7)).tolist() == value_of(7).tolist()
    database.execute("UPDATE memo SET value = ?", (damage(row),))
    assert memo.put(key, value_of(7)).tolist() == value_of(7).tolist()
    assert memo.get(key).tolist() == value_of(7).tolist()
    assert memo.counts == Counts(hits=1, misses=1, writes=3, bad_rows=2)


def test_a_row_that_became_text_is_a_miss(memo):
    memo.put(key_of(memo, 1), 1.0)
    run_sql(memo.path, "UPDATE memo SET value = CAST(x'fffe' AS TEXT)")
    assert memo.get(key_of(memo, 1)) is None
    assert memo.put(key_of(memo, 1), 1.0) == 1.0
    assert memo.counts == Counts(misses=1, writes=2, bad_rows=1)


def test_an_index_without_its_row_does_not_hang(memo):
    """SQLite then says that a key is there, and finds nothing under it."""
    memo.put(key_of(memo, 1), 1.0)
    read = memo._file.rows
    memo._file.rows = lambda statement, values=(): []
    try:
        with one_warning("cannot be replaced"):
            assert memo.put(key_of(memo, 1), 2.0) == 2.0
    finally:
        memo._file.rows = read
    assert memo.counts == Counts(writes=1, failed_writes=1)


def test_a_row_under_the_key_of_another_is_a_miss(memo):
    first, second = key_of(memo, 1), key_of(memo, 2)
    memo.put(first, 1.0)
    run_sql(memo.path, "UPDATE memo SET key = ?", second)
    assert memo.get(second) is None
    assert memo.counts.bad_rows == 1


@pytest.mark.parametrize("seed", range(12))
def test_overwritten_pages_give_no_wrong_value_and_no_error(tmp_path, seed):
    path, rng = tmp_path / "memo.db", random.Random(seed)
    filled(path)
    content = bytearray(path.read_bytes())
    for _ in range(1 + seed % 3):
        page = rng.randrange(len(content) // 4096) * 4096
        # Not the mark of whose file it is, in the first 100 bytes: others' files are refused.
        start, length = (page, 4096) if seed % 2 else (page + rng.randrange(100, 4000), 16)
        content[start : start + length] = rng.randbytes(length)
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Memo(path) as memo:
            for number in range(200):
                found = memo.get(key_of(memo, number))
                assert found is None or found.tolist() == value_of(number).tolist()
                stored = memo.put(key_of(memo, number), value_of(number))
                assert stored.tolist() == value_of(number).tolist()
            memo.info()
    assert len(caught) <= 2
    if list(tmp_path.glob("memo.db.corrupt-*")):
        assert "is kept as" in str(caught[0].message)
        assert check_rows(path)[0] == "ok"


def test_an_unreadable_file_is_kept_and_begun_anew(tmp_path):
    path = tmp_path / "memo.db"
    path.write_bytes(b"not a database, or not any more" * 1000)
    content = path.read_bytes()
    with one_warning("is damaged"), Memo(path) as memo:
        memo.put(key_of(memo, 1), 1.0)
    (kept,) = tmp_path.glob("memo.db.corrupt-*")
    assert kept.read_bytes() == content
    with Memo(path) as memo:
        assert memo.get(key_of(memo, 1)) == 1.0


@pytest.mark.parametrize("word", [b"walue BLOB", b"valu\x81 BLOB", b"\x81alue BLO "])
def test_a_damaged_table_is_begun_anew(tmp_path, word):
    filled(tmp_path / "memo.db", 3)
    content = (tmp_path / "memo.db").read_bytes()
    (tmp_path / "memo.db").write_bytes(content.replace(b"value BLOB", word))
    with one_warning("is damaged"), Memo(tmp_path / "memo.db") as memo:
        assert memo.put(key_of(memo, 1), 1.0) == 1.0
        assert memo.get(key_of(memo, 1)) == 1.0


def test_damage_while_it_is_open_is_found(tmp_path):
    path = tmp_path / "memo.db"
    filled(path)
    with Memo(path) as memo:
        pages = path.stat().st_size // 4096
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom((pages - 1) * 4096))
        results = []

        def work():
            results.extend(memo.get(key_of(memo, n)) for n in range(50))

        with one_warning("is damaged"):
            work()
            memo.put(key_of(memo, 1), value_of(1))
            thread = threading.Thread(target=work)
            thread.start()
            thread.join(20)
        endings = {path.name[31:] for path in tmp_path.glob("memo.db.corrupt-*")}
        assert endings == {"", "-wal", "-shm"}
        assert [n for n, found in enumerate(results) if found is not None] == [51]


def test_who_comes_late_to_a_damaged_file_takes_the_new_one(tmp_path):
    path = tmp_path / "memo.db"
    filled(path)
    with Memo(path) as early, Memo(path) as late:
        pages = path.stat().st_size // 4096
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom((pages - 1) * 4096))
        with one_warning("is damaged"):
            early.put(key_of(early, 1), value_of(1))
            found = late.get(key_of(late, 1))
        assert found.tolist() == value_of(1).tolist()


def test_many_processes_replace_a_damaged_file_once(tmp_path):
    path = tmp_path / "memo.db"
    path.write_bytes(os.urandom(20_000))
    barrier, queue = processes.Barrier(4), processes.Queue()
    users = [processes.Process(target=find_damage, args=(path, barrier, queue)) for _ in range(4)]
    for user in users:
        user.start()
    found = [queue.get(timeout=30) for _ in users]
    for user in users:
        user.join(20)
    assert sum(number for _, number, _ in found) == 1
    assert [failed for *_, failed in found] == [0] * 4
    assert len(list(tmp_path.glob("memo.db.corrupt-*"))) == 1
    with Memo(path) as memo:
        assert all(memo.get(key_of(memo, pid)) == pid for pid, *_ in found)


def test_other_databases_are_left_alone(tmp_path):
    path = tmp_path / "other.db"
    run_sql(path, "CREATE TABLE results (y REAL)")
    content = path.read_bytes()
    with pytest.raises(MethodError, match="something else"):
        Memo(path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["other.db"]


# ------------------------------------------------------------------------------------------------
# What is in it
# ------------------------------------------------------------------------------------------------


def test_info_and_prune(memo, monkeypatch):
    for number, age in enumerate([100, 50, 0]):
        now = time.time()
        with monkeypatch.context() as context:
            context.setattr(suture._memo.time, "time", lambda then=now - age: then)
            memo.put(key_of(memo, number), np.ones(10**number))
    found = memo.info()
    assert (found.values, found.journal, found.path) == (3, "wal", memo.path)
    assert 800 < found.largest < 900
    assert found.size >= found.largest
    assert 99 < (found.newest - found.oldest).total_seconds() < 101
    assert memo.prune(older_than=timedelta(seconds=70)) == 1
    assert memo.prune(larger_than=500) == 1
    assert [memo.get(key_of(memo, n)) is not None for n in range(3)] == [False, True, False]
    assert memo.prune(older_than=0) == 1
    assert memo.info().values == 0
    assert memo.info().oldest is None


def test_prune_gives_space_back(memo):
    for number in range(50):
        memo.put(key_of(memo, number), np.ones(5000))
    before = memo.info().size
    assert memo.prune(older_than=0) == 50
    assert memo.info().size < 50_000 < 1_000_000 < before


def typed(*words):
    result = CliRunner().invoke(app, ["memo", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return " ".join(result.output.split())


def test_the_command_line_says_what_is_in_it(tmp_path):
    path = tmp_path / "memo.db"
    filled(path, 30)
    assert "values 30 size" in typed("info", path)
    assert "never" not in typed("info", path)
    assert typed("prune", path, "--older-than", "1d").startswith("0 values deleted, 30 kept")
    assert typed("prune", path, "--larger-than", "0.2kB").startswith("8 values deleted, 22 kept")
    assert typed("prune", path, "--older-than", "0s").startswith("22 values deleted, 0 kept")
    assert "values 0" in typed("info", path)


def test_the_command_line_makes_and_renames_nothing(tmp_path):
    (tmp_path / "table.csv").write_text("a,b\n1,2\n" * 100)
    run_sql(tmp_path / "other.db", "CREATE TABLE results (y REAL)")
    before = sorted(os.listdir(tmp_path))
    for name in ("table.csv", "other.db", "absent.db"):
        for command in (("info",), ("prune", "--older-than", "0s")):
            with pytest.raises(MethodError, match="is not a memo"):
                typed(*command, tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("words", ["30", "d", "-1d", "1y", "1 d d", "nan d"])
def test_the_command_line_takes_amounts_with_units(tmp_path, words):
    with pytest.raises(MethodError, match="is no amount"):
        typed("prune", tmp_path / "memo.db", f"--older-than={words}")
