"""Models behind HTTP: a server that follows the protocol, one that does not, and the package."""

import concurrent.futures
import contextlib
import importlib.util
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import cloudpickle
import numpy as np
import pytest
import torch
from umbridge_server import (
    MODELS,
    behaves,
    certificate,
    drips,
    first,
    free_port,
    says,
    serving,
    sleeps,
    writes,
)

from suture import CustomVJP, FiniteDifference, differentiable
from suture.errors import BadResult, EvaluationError, MethodError, TimedOut
from suture.executors import Workers
from suture.functions import UMBridge
from suture.functions._channel import Channel

# A watchdog: none of these takes three seconds.
pytestmark = pytest.mark.timeout(60)

X, Y = [0.3, -1.2, 0.7], [0.9, 1.6]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.fixture
def server():
    with serving() as running:
        yield running


def vectors():
    return [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (X, Y)]


def exact(o, i):
    return torch.from_numpy(np.array(MODELS["two"].jacobian(o, i, [X, Y])))


# ------------------------------------------------------------------------------------------------
# What it is
# ------------------------------------------------------------------------------------------------


def test_sizes_and_support_are_the_servers(server):
    two, plain = UMBridge(server.url, "two"), UMBridge(server.url + "/", "plain")
    assert (two.input_sizes, two.output_sizes) == ((3, 2), (2, 1))
    assert (two.supports_gradient, two.supports_apply_jacobian) == (True, True)
    assert (plain.supports_gradient, plain.supports_apply_jacobian) == (False, False)
    assert repr(two) == f"UMBridge('{server.url}', 'two')"
    assert server.routes() == ["Info", "ModelInfo", "InputSizes", "OutputSizes"] * 2


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_it_works_by_itself(server, kind):
    x, y = [0.25, -1.5, 0.75], [0.5, 2.0]
    first_output, second = UMBridge(server.url, "two")(kind(x), kind(y))
    expected = MODELS["two"].evaluate([x, y])
    assert (first_output.tolist(), second.tolist()) == tuple(expected)
    (only,) = [UMBridge(server.url, "squares")(kind([3.0, -2.0]))]
    assert only.dtype == np.float64
    assert only.tolist() == [9.0, 4.0]


def test_numbers_arrive_with_all_their_digits(server):
    x = [1 / 3, 5e-324]
    UMBridge(server.url, "squares")(x)
    assert server.asked[-1][1]["input"] == [x]


def test_the_config_is_sent_with_each_request(server):
    config = {"power": 3}
    cubes = UMBridge(server.url, "squares", config)
    config["power"] = 4  # it was copied
    assert cubes([2.0, 1.0]).tolist() == [8.0, 1.0]
    assert [q["config"] for _, q in server.asked[1:]] == [{"power": 3}] * 4


def test_a_path_before_the_routes(server):
    f = UMBridge(server.url + "/models/", "squares")
    assert f([2.0, 1.0]).tolist() == [4.0, 1.0]


def test_proxies_of_the_environment_are_not_used(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert "http" in urllib.request.getproxies()
    assert UMBridge(server.url, "squares")([2.0, 1.0]).tolist() == [4.0, 1.0]


def test_a_trusted_certificate_and_another(monkeypatch, tmp_path):
    with serving(secure=True) as server:
        with pytest.raises(MethodError, match="certificate"):
            UMBridge(server.url, "squares")
        assert server.asked == []
        (tmp_path / "ca.pem").write_text(certificate())
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        f = UMBridge(server.url, "squares")
        assert f([2.0, 1.0]).tolist() == [4.0, 1.0]
        assert len(server.peers) == 1


# ------------------------------------------------------------------------------------------------
# Derivatives
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("own", "rtol"), [(True, 1e-14), (False, 1e-6)])
def test_gradients_are_exact_and_those_by_differences_agree(server, own, rtol):
    box = UMBridge(server.url, "two")
    f = differentiable(box, method=box.method() if own else FiniteDifference())
    x, y = vectors()
    outputs = f(x, y)
    del server.asked[:]
    found = torch.autograd.grad(2 * outputs[0].sum() - 3 * outputs[1].sum(), (x, y))
    for i, gradient in enumerate(found):
        expected = 2 * exact(0, i).sum(0) - 3 * exact(1, i).sum(0)
        torch.testing.assert_close(gradient, expected, rtol=rtol, atol=rtol)
    assert set(server.routes()) == ({"Gradient"} if own else {"Evaluate"})
    assert not own or len(server.asked) == 4  # two inputs, two outputs


def test_an_output_without_cotangent_is_not_asked_for(server):
    box = UMBridge(server.url, "two")
    x, y = vectors()
    _, second = differentiable(box, method=box.method())(x, y)
    del server.asked[:]
    second.sum().backward()
    assert [(q["outWrt"], q["inWrt"]) for _, q in server.asked] == [(1, 0), (1, 1)]


def test_forward_mode_is_the_servers(server):
    box = UMBridge(server.url, "two")
    f = differentiable(box, method=box.method())
    x, y = (v.detach() for v in vectors())
    tangents = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.25, 3.0])
    tangents = tuple(t.double() for t in tangents)
    del server.asked[:]
    _, pushed = torch.func.jvp(f, (x, y), tangents)
    for o in range(2):
        expected = exact(o, 0) @ tangents[0] + exact(o, 1) @ tangents[1]
        torch.testing.assert_close(pushed[o], expected, rtol=1e-14, atol=1e-14)
    assert server.routes().count("ApplyJacobian") == 4
    assert server.routes().count("Evaluate") == 1


def test_second_derivatives_are_differences_of_the_servers(server):
    box = UMBridge(server.url, "squares")
    f = differentiable(box, method=box.method())
    hessian = torch.func.hessian(lambda x: f(x).sum())(torch.tensor([3.0, 2.0]).double())
    torch.testing.assert_close(hessian, 2 * torch.eye(2).double(), rtol=1e-5, atol=1e-5)


def test_what_the_server_does_not_have_is_differenced(server):
    assert UMBridge(server.url, "plain").method() == FiniteDifference()
    ahead = UMBridge(server.url, "ahead")
    f, x = differentiable(ahead, method=ahead.method()), torch.tensor([3.0, 2.0]).double()
    (gradient,) = torch.autograd.grad(f(x.requires_grad_()).sum(), x)
    torch.testing.assert_close(gradient, 2 * x.detach(), rtol=1e-6, atol=0)
    _, pushed = torch.func.jvp(f, (x.detach(),), (torch.ones(2).double(),))
    assert pushed.tolist() == [6.0, 4.0]
    assert server.routes().count("ApplyJacobian") == 1
    reverse = UMBridge(server.url, "reverse").method()
    assert isinstance(reverse, CustomVJP)
    assert reverse.jvp is None


@pytest.mark.parametrize("options", [{"interface": "numpy"}, {"dtype": None}])
def test_what_the_function_receives_does_not_matter(server, options):
    box = UMBridge(server.url, "two")
    x, y = vectors()
    differentiable(box, method=box.method(), **options)(x, y)[1].sum().backward()
    torch.testing.assert_close(x.grad, exact(1, 0)[0], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("given", [[1j, 2.0], [[1.0], [1.0, 2.0]], {}, None, torch.tensor(1j)])
def test_what_is_no_vector_of_numbers_is_refused(server, given):
    with pytest.raises(MethodError):
        UMBridge(server.url, "squares")(given)


def test_rows_of_a_vmap_are_points(server):
    box = UMBridge(server.url, "squares")
    f = differentiable(box, method=box.method())
    x = torch.arange(6.0, dtype=torch.float64).reshape(3, 2).requires_grad_()
    torch.func.vmap(f)(x).sum().backward()
    assert x.grad.tolist() == (2 * x).tolist()


def test_float32_and_a_scaled_loss_that_overflowed(server):
    box = UMBridge(server.url, "squares")
    x = torch.tensor([3.0, 2.0], requires_grad=True)
    y = differentiable(box, method=box.method())(x)
    assert y.dtype == torch.float32
    (y * torch.inf).sum().backward()
    assert not x.grad.isfinite().any()


# ------------------------------------------------------------------------------------------------
# Connections
# ------------------------------------------------------------------------------------------------


def test_a_thread_keeps_its_connection_and_another_has_its_own(server):
    f = UMBridge(server.url, "squares")
    for _ in range(5):
        f([2.0, 1.0])
    assert len(server.peers) == 1
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert [pool.submit(f, [k, 1.0]).result()[0] for k in range(3)] == [0.0, 1.0, 4.0]
    assert len(server.peers) == 2


@pytest.mark.parametrize("fault", [says(200, b'{"output": [[4, 1]]}', Connection="close"), None])
def test_a_connection_that_the_server_closed_is_opened_again(server, fault):
    f = UMBridge(server.url, "squares")
    server.faults["Evaluate"] = fault or writes(
        HEAD + b"Content-Length: 20\r\n\r\n" + b'{"output": [[4, 1]]}'
    )
    for _ in range(3):
        assert f([2.0, 1.0]).tolist() == [4.0, 1.0]
        # The end of the connection arrives.
        time.sleep(0.05)
    assert len(server.peers) == 3


@pytest.mark.parametrize("module", [pickle, cloudpickle])
def test_a_copy_connects_anew(server, module):
    f = UMBridge(server.url, "two", timeout=7.0)
    del server.asked[:]
    again = module.loads(module.dumps(f))
    assert server.asked == []  # it knows the sizes
    assert again(X, Y)[1].tolist() == f(X, Y)[1].tolist()
    assert len(server.peers) == 2
    assert isinstance(module.loads(module.dumps(f.method())), CustomVJP)


def test_a_forked_process_leaves_the_connection_alone(server):
    f = UMBridge(server.url, "squares")
    child = os.fork()
    if child == 0:  # pragma: no cover - it ends here
        os._exit(0 if f([3.0, 1.0]).tolist() == [9.0, 1.0] else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert f([2.0, 1.0]).tolist() == [4.0, 1.0]
    assert len(server.peers) == 2


@pytest.mark.parametrize("make", [lambda: Workers(2), lambda: None])
def test_executors(server, make):
    executor = make()
    with executor if executor is not None else contextlib.nullcontext():
        f = differentiable(UMBridge(server.url, "two"), executor=executor)
        x, y = vectors()
        f(x, y)[1].sum().backward()
        torch.testing.assert_close(x.grad, exact(1, 0)[0], rtol=1e-6, atol=1e-6)
    assert len(server.peers) >= (3 if executor else 1)


# ------------------------------------------------------------------------------------------------
# Servers that do not behave
# ------------------------------------------------------------------------------------------------

CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
DRIPS = {
    "its status": b"HTTP/1.1 200",
    "its headers": HEAD + b"X-Drip:",
    "its body": HEAD + b"Content-Length: 1000\r\n\r\n",
    "a body without end": HEAD + b"\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("start", DRIPS.values(), ids=DRIPS.keys())
def test_a_server_that_drips_ends_at_the_deadline(server, start):
    f = UMBridge(server.url, "squares", timeout=0.3)
    server.faults["Evaluate"] = drips(start) if start else sleeps(1.5)
    begun = time.monotonic()
    with pytest.raises(TimedOut):
        f([2.0, 1.0])
    assert 0.29 < time.monotonic() - begun < 1.3
    server.faults.clear()
    assert f([2.0, 1.0]).tolist() == [4.0, 1.0]


def test_a_server_that_does_not_read_ends_at_the_deadline(server):
    f = UMBridge(server.url, "squares", timeout=0.3)
    f.input_sizes = (500_000,)  # 10 MB of text, more than the buffers of a connection hold
    f._server.close()
    server.RequestHandlerClass = lambda *_: time.sleep(1.5)
    begun = time.monotonic()
    with pytest.raises(TimedOut):
        f(np.full(500_000, 1 / 3))
    assert time.monotonic() - begun < 1.4


class Slow:
    """A socket that takes a byte every 20 ms, as one of TLS may: no single send is late."""

    def settimeout(self, seconds):
        assert seconds > 0

    def send(self, data):
        time.sleep(0.02)
        return 1

    def close(self):
        """Have nothing to close."""


def test_all_pieces_that_are_sent_have_one_deadline(server):
    channel = Channel("127.0.0.1", server.server_port, False, time.monotonic() + 10)
    channel._socket.close()
    channel._socket, channel.until = Slow(), time.monotonic() + 0.1
    with pytest.raises(TimeoutError):
        channel.sendall(b"x" * 100)


def test_looking_up_a_name_ends_at_the_deadline(monkeypatch):
    """The name server is silent."""
    looked, over = [], threading.Event()

    def getaddrinfo(host, port, type, flags=0):
        if flags == socket.AI_NUMERICHOST:
            raise socket.gaierror("it is a name")
        looked.append(host)
        over.wait(10)
        raise socket.gaierror("nobody knows it")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    begun = time.monotonic()
    with pytest.raises(TimedOut):
        UMBridge("http://somewhere:4242", "squares", timeout=0.3)
    assert 0.29 < time.monotonic() - begun < 1.3
    assert looked == ["somewhere"]
    over.set()
    with pytest.raises(EvaluationError, match="nobody knows it"):
        UMBridge("http://somewhere:4242", "squares", timeout=5.0)


def test_a_name_is_looked_up_and_an_address_is_not(server, monkeypatch):
    named = UMBridge(f"http://localhost:{server.server_port}", "squares")
    assert named([2.0, 1.0]).tolist() == [4.0, 1.0]
    real, by = socket.getaddrinfo, []
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda *a, **k: by.append(threading.current_thread()) or real(*a, **k),
    )
    UMBridge(server.url, "squares")
    assert by == [threading.current_thread()]
    with pytest.raises(EvaluationError, match="this is no name of a host"):
        UMBridge("http://a..b", "squares")


def test_each_request_has_a_deadline_of_its_own(server):
    f = UMBridge(server.url, "squares", timeout=0.3)
    for _ in range(3):
        time.sleep(0.15)
        assert f([2.0, 1.0]).tolist() == [4.0, 1.0]
    assert len(server.peers) == 1


BROKEN = {
    "hangs up": writes(b""),
    "ends in the headers": writes(HEAD),
    "ends in the body": writes(HEAD + b'Content-Length: 20\r\n\r\n{"output"'),
    "ends in a chunk": writes(CHUNKED + b'A\r\n{"out'),
    "does not speak HTTP": writes(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "sends a chunk of -5 bytes": writes(CHUNKED + b'-5\r\n{"output": [[4, 1]]}'),
    "answers 500": says(500, b"<h1>oops</h1>"),
    "answers 503": says(503),
    "answers 429": says(429),
}


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN.keys())
def test_what_may_pass_is_tried_again_and_only_if_told(server, fault):
    box = UMBridge(server.url, "squares")
    x = torch.tensor([2.0, 1.0]).double()
    server.faults["Evaluate"] = first(2, fault, behaves)
    f = differentiable(box, retries=2)
    assert f(x).tolist() == [4.0, 1.0]
    assert (f.tally.evaluations, f.tally.retries) == (3, 2)
    server.faults["Evaluate"] = first(2, fault, behaves)
    for call in (box, differentiable(box)):
        with pytest.raises(EvaluationError) as caught:
            call(x)
        assert type(caught.value) is EvaluationError
    assert differentiable(box)(x).tolist() == [4.0, 1.0]


@pytest.mark.parametrize("route", ["Gradient", "ApplyJacobian"])
def test_derivatives_of_the_server_are_tried_again_too(server, route):
    box = UMBridge(server.url, "squares")
    x = torch.tensor([3.0, 2.0], dtype=torch.float64)

    def slope(retries):
        f = differentiable(box, method=box.method(), retries=retries)
        if route == "Gradient":
            at = x.clone().requires_grad_()
            (found,) = torch.autograd.grad(f(at).sum(), at)
        else:
            found = torch.func.jvp(f, (x,), (torch.ones_like(x),))[1]
        return found.tolist(), f.tally

    server.faults[route] = first(2, says(503), behaves)
    found, tally = slope(2)
    assert found == [6.0, 4.0]
    assert (tally.rule_retries, tally.retries, tally.evaluations) == (2, 0, 1)
    server.faults[route] = first(2, says(503), behaves)
    with pytest.raises(EvaluationError, match="503"):
        slope(1)
    server.faults[route] = first(1, says(404), behaves)
    with pytest.raises(BadResult, match="404"):
        slope(5)


WRONG = {
    "answers 404": says(404, b"<html>"),
    "refuses": says(400, b'{"error": {"type": "InvalidInput", "message": "no"}}'),
    "redirects": says(307, b"", Location="http://127.0.0.1:1/"),
    "sends HTML": says(200, b"<!doctype html><html>"),
    "sends nothing": says(200),
    "sends no text": says(200, b'{"output": [["\xff"]]}'),
    "sends deep brackets": says(200, b"[" * 100_000),
    "sends NaN": says(200, b'{"output": [[NaN, 1.0]]}'),
    "sends nan": says(200, b'{"output": [[1.0, nan]]}'),
    "sends -Infinity": says(200, b'{"output": [[-Infinity, 1.0]]}'),
    "sends -inf": says(200, b'{"output": [[-inf, 1.0]]}'),
    "sends 1e999": says(200, b'{"output": [[1e999, 1.0]]}'),
    "sends 5000 digits": says(200, b'{"output": [[1%s, 1.0]]}' % (b"0" * 5000)),
    "sends a word": says(200, b'{"output": [["1.0", 1.0]]}'),
    "sends true": says(200, b'{"output": [[true, 1.0]]}'),
    "sends null": says(200, b'{"output": [[null, 1.0]]}'),
    "sends a number": says(200, b'{"output": 1.0}'),
    "sends numbers": says(200, b'{"output": [1.0, 1.0]}'),
    "sends too little": says(200, b'{"output": [[1.0]]}'),
    "sends too much": says(200, b'{"output": [[1.0, 1.0], [1.0]]}'),
    "sends a list": says(200, b"[[1.0, 1.0]]"),
}


@pytest.mark.parametrize("fault", WRONG.values(), ids=WRONG.keys())
def test_what_is_no_result_is_refused_and_not_tried_again(server, fault):
    box = UMBridge(server.url, "squares")
    f = differentiable(box, retries=5)
    server.faults["Evaluate"] = fault
    with pytest.raises(BadResult):
        f(torch.tensor([2.0, 1.0]))
    assert (f.tally.evaluations, f.tally.retries) == (1, 0)
    with pytest.raises(BadResult):
        box([2.0, 1.0])
    server.faults.clear()
    assert box([2.0, 1.0]).tolist() == [4.0, 1.0]


def test_a_redirect_is_not_followed(server):
    with serving() as other:
        server.faults["Evaluate"] = says(302, Location=f"{other.url}/Evaluate")
        with pytest.raises(BadResult, match="302 Found"):
            UMBridge(server.url, "squares")([2.0, 1.0])
        assert other.asked == []


@pytest.mark.parametrize("announced", [True, False])
def test_two_hundred_megabytes_are_cut(server, announced):
    sent = []

    def floods(handler):
        handler.wfile.write(HEAD + b"Content-Length: 200000000\r\n" * announced + b"\r\n")
        handler.close_connection = True
        with contextlib.suppress(OSError):
            for megabytes in range(200):
                handler.wfile.write(b" " * 1_000_000)
                sent.append(megabytes)

    f = UMBridge(server.url, "squares")
    server.faults["Evaluate"] = floods
    with pytest.raises(BadResult, match="67108864 bytes"):
        f([2.0, 1.0])
    # 67 MB were read; the buffers of the connection hold a few more.
    assert 65 < len(sent) < 90
    small = UMBridge(server.url, "squares", max_bytes=1000)
    server.faults["Evaluate"] = says(200, b'{"output": [[4, 1]]}' + b" " * 980)
    assert small([2.0, 1.0]).tolist() == [4.0, 1.0]
    server.faults["Evaluate"] = says(200, b'{"output": [[4, 1]]}' + b" " * 981)
    with pytest.raises(BadResult, match="1000 bytes"):
        small([2.0, 1.0])


def test_an_interrupted_request_does_not_leave_its_answer_to_the_next(server):
    f = UMBridge(server.url, "squares")
    server.faults["Evaluate"] = first(1, sleeps(1), behaves)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        f([2.0, 1.0])
    timer.join()
    assert f([3.0, 1.0]).tolist() == [9.0, 1.0]


def test_a_server_that_is_not_there_is_worth_another_attempt():
    with serving() as server:
        f = differentiable(UMBridge(server.url, "squares"), retries=2)
        f.fn._server.close()
    with pytest.raises(EvaluationError, match="Connection refused") as caught:
        f(torch.tensor([2.0, 1.0]))
    assert type(caught.value) is EvaluationError
    assert f.tally.evaluations == 3


# ------------------------------------------------------------------------------------------------
# The package
# ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package():
    """A server of the package `umbridge`, in a process of its own."""
    if importlib.util.find_spec("umbridge") is None:
        pytest.skip("the package umbridge is not installed")
    from umbridge_server import __file__ as program

    port = free_port()
    process = subprocess.Popen(
        [sys.executable, program, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                UMBridge(f"http://127.0.0.1:{port}", "two")
                break
            except EvaluationError:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("own", "rtol"), [(True, 1e-14), (False, 1e-6)])
def test_package_gradients(package, own, rtol):
    box = UMBridge(package[0], "two")
    f = differentiable(box, method=box.method() if own else FiniteDifference())
    x, y = vectors()
    outputs = f(x, y)
    (2 * outputs[0].sum() - 3 * outputs[1].sum()).backward()
    for i, v in enumerate((x, y)):
        expected = 2 * exact(0, i).sum(0) - 3 * exact(1, i).sum(0)
        torch.testing.assert_close(v.grad, expected, rtol=rtol, atol=rtol)


def test_package_forward_mode_and_support(package):
    box = UMBridge(package[0], "ahead")
    assert (box.supports_gradient, box.supports_apply_jacobian) == (False, True)
    f, x = differentiable(box, method=box.method()), torch.tensor([3.0, 2.0]).double()
    _, pushed = torch.func.jvp(f, (x,), (torch.ones(2).double(),))
    assert pushed.tolist() == [6.0, 4.0]
    assert UMBridge(package[0], "plain").method() == FiniteDifference()


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (13.0, EvaluationError, "500 Internal Server Error"),
        (14.0, BadResult, "with nan or inf"),
        (15.0, BadResult, "with nan or inf"),
    ],
)
def test_package_models_that_fail(package, x, error, words):
    box = UMBridge(package[0], "squares")
    with pytest.raises(error, match=words) as caught:
        box([x, 1.0])
    assert type(caught.value) is error
    assert box([3.0, 1.0]).tolist() == [9.0, 1.0]


def test_package_model_that_is_refused(package):
    box = UMBridge(package[0], "squares")
    box.input_sizes = (3,)
    with pytest.raises(BadResult, match="400 Bad Request: 'Input parameter 0 has invalid length"):
        box([1.0, 2.0, 3.0])


def test_package_server_that_is_killed(package):
    """The last test: the server is gone then."""
    url, process = package
    box = UMBridge(url, "squares")
    process.kill()
    process.wait()
    f = differentiable(box, retries=1)
    with pytest.raises(EvaluationError, match="There is no connection"):
        f(torch.tensor([2.0, 1.0]))
    assert f.tally.evaluations == 2
