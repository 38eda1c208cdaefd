"""Servers of UM-Bridge 1.0 on loopback: of the standard library, and of the package `umbridge`.

The first can be told to misbehave. `python umbridge_server.py PORT` is the second.
"""

import contextlib
import dataclasses
import functools
import http.server
import json
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@functools.cache
def certificate():
    """Return a certificate for localhost that nobody has signed, with its key; both are new."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    with tempfile.TemporaryDirectory() as home:
        key, made = Path(home) / "key.pem", Path(home) / "made.pem"
        options = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ]
        names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        subprocess.run(
            ["openssl", *options, *names, "-keyout", key, "-out", made],
            check=True,
            capture_output=True,
        )
        return key.read_text() + made.read_text()


@dataclasses.dataclass(frozen=True)
class Model:
    """What a server serves; `jacobian(o, i, inputs)` is a matrix."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    evaluate: Callable
    jacobian: Callable
    supports: tuple[str, ...] = ("Evaluate", "Gradient", "ApplyJacobian")


def two(inputs):
    (a, b, c), (d, e) = inputs
    return [[a * b + d**2, np.sin(c) * e], [np.exp(a * e) + c]]


def two_jacobian(o, i, inputs):
    (a, b, c), (d, e) = inputs
    f = np.exp(a * e)
    table = {
        (0, 0): [[b, a, 0], [0, 0, np.cos(c) * e]],
        (0, 1): [[2 * d, 0], [0, np.sin(c)]],
        (1, 0): [[e * f, 0, 1]],
        (1, 1): [[0, a * f]],
    }
    return np.array(table[o, i])


def squares(inputs, config=None):
    power = (config or {}).get("power", 2)
    return [[x**power for x in inputs[0]]]


def squares_jacobian(o, i, inputs):
    return np.diag(2 * np.array(inputs[0]))


SQUARES = Model((2,), (2,), squares, squares_jacobian)
MODELS = {
    "two": Model((3, 2), (2, 1), two, two_jacobian),
    "squares": SQUARES,
    "plain": dataclasses.replace(SQUARES, supports=("Evaluate",)),
    "reverse": dataclasses.replace(SQUARES, supports=("Evaluate", "Gradient")),
    "ahead": dataclasses.replace(SQUARES, supports=("Evaluate", "ApplyJacobian")),
    "unusable": dataclasses.replace(SQUARES, supports=()),
}


def answer(route, question):
    """Return what the protocol has for a question."""
    if route == "Info":
        return {"protocolVersion": 1.0, "models": list(MODELS)}
    model = MODELS[question["name"]]
    if route == "ModelInfo":
        names = ("Evaluate", "Gradient", "ApplyJacobian", "ApplyHessian")
        return {"support": {name: name in model.supports for name in names}}
    if route == "InputSizes":
        return {"inputSizes": list(model.inputs)}
    if route == "OutputSizes":
        return {"outputSizes": list(model.outputs)}
    inputs = question["input"]
    assert tuple(map(len, inputs)) == model.inputs
    assert route in model.supports
    if route == "Evaluate":
        with_config = model.evaluate is squares
        return {"output": model.evaluate(inputs, *[question["config"]] * with_config)}
    jacobian = model.jacobian(question["outWrt"], question["inWrt"], inputs)
    if route == "Gradient":
        return {"output": (np.array(question["sens"]) @ jacobian).tolist()}
    return {"output": (jacobian @ np.array(question["vec"])).tolist()}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the protocol has it, unless the server has a fault for the route."""

    protocol_version = "HTTP/1.1"
    # Header and body are two writes, which Nagle's algorithm would hold back for 40 ms.
    disable_nagle_algorithm = True

    def do_GET(self):
        self.answer(None)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(json.loads(body))

    def answer(self, question):
        route = self.path.rpartition("/")[2]
        self.server.asked.append((route, question))
        self.server.peers.add(self.client_address)
        fault = self.server.faults.get(route)
        if fault is not None:
            fault(self)
            return
        self.send(200, json.dumps(answer(route, question)).encode())

    def send(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


class LocalServer(http.server.ThreadingHTTPServer):
    """Counts what it is asked, and by how many connections."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, faults):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.asked, self.peers = faults, [], set()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """Say nothing: clients that hang up are what is tested."""

    def routes(self):
        return [route for route, _ in self.asked]


@contextlib.contextmanager
def serving(secure=False, **faults):
    """Run a server in a thread; a fault is called with the handler, instead of an answer."""
    server = LocalServer(faults)
    if secure:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "both.pem"
            file.write_text(certificate())
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(file)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.url = f"https://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# ------------------------------------------------------------------------------------------------
# Faults
# ------------------------------------------------------------------------------------------------


def says(status, body=b"", **headers):
    """Answer with a status and some bytes."""
    return lambda handler: handler.send(status, body, **headers)


def writes(raw):
    """Answer with raw bytes, headers among them, and hang up."""

    def fault(handler):
        handler.wfile.write(raw)
        handler.close_connection = True

    return fault


def drips(start, pause=0.05):
    """Send a byte now and then, and never end."""

    def fault(handler):
        handler.wfile.write(start)
        with contextlib.suppress(OSError):
            for _ in range(600):
                handler.wfile.write(b" ")
                time.sleep(pause)
        handler.close_connection = True

    return fault


def sleeps(seconds):
    """Say nothing for a while, and hang up."""

    def fault(handler):
        time.sleep(seconds)
        handler.close_connection = True

    return fault


def first(times, fault, then):
    """Misbehave some times, and then behave otherwise."""
    left = [times]

    def faults(handler):
        left[0] -= 1
        (fault if left[0] >= 0 else then)(handler)

    return faults


def behaves(handler):
    """Answer as the protocol has it."""
    route, question = handler.server.asked[-1]
    handler.send(200, json.dumps(answer(route, question)).encode())


# ------------------------------------------------------------------------------------------------
# The package
# ------------------------------------------------------------------------------------------------


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def serve_with_the_package(port):
    import umbridge

    class Served(umbridge.Model):
        def __init__(self, name, model):
            super().__init__(name)
            self.model = model

        def get_input_sizes(self, config):
            return list(self.model.inputs)

        def get_output_sizes(self, config):
            return list(self.model.outputs)

        def __call__(self, parameters, config):
            if parameters[0][0] == 13.0:
                raise ArithmeticError("no equilibrium")
            if parameters[0][0] == 14.0:
                return [[float("nan"), 1.0]]
            if parameters[0][0] == 15.0:
                return [[float("-inf"), 1.0]]
            return answer("Evaluate", self.question(parameters, config))["output"]

        def gradient(self, out_wrt, in_wrt, parameters, sens, config):
            question = self.question(parameters, config)
            question |= {"outWrt": out_wrt, "inWrt": in_wrt, "sens": sens}
            return answer("Gradient", question)["output"]

        def apply_jacobian(self, out_wrt, in_wrt, parameters, vec, config):
            question = self.question(parameters, config)
            question |= {"outWrt": out_wrt, "inWrt": in_wrt, "vec": vec}
            return answer("ApplyJacobian", question)["output"]

        def question(self, parameters, config):
            return {"name": self.name, "input": parameters, "config": config}

        def supports_evaluate(self):
            return "Evaluate" in self.model.supports

        def supports_gradient(self):
            return "Gradient" in self.model.supports

        def supports_apply_jacobian(self):
            return "ApplyJacobian" in self.model.supports

    umbridge.serve_models([Served(name, model) for name, model in MODELS.items()], port)


if __name__ == "__main__":
    serve_with_the_package(int(sys.argv[1]))
