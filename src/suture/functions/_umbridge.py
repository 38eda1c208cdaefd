"""Models behind HTTP that speak the protocol UM-Bridge 1.0.

Source: https://um-bridge-benchmarks.readthedocs.io/en/docs/umbridge/clients.html and the server
of the package `umbridge` 1.2.10.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np

from suture._types import Array
from suture.errors import BadResult, MethodError, shown
from suture.functions._http import Server

if TYPE_CHECKING:
    from suture._methods import AbstractMethod

_PROTOCOL = 1.0

# Seconds. A model that needs longer says so at its first call, and in a message that shows how.
_TIMEOUT = 60.0

# 64 MB hold three million numbers of 19 digits and a comma.
_MAX_BYTES = 2**26


@final
class UMBridge:
    """A model that a server evaluates, over HTTP with the protocol UM-Bridge 1.0.

    It takes one vector for each input vector of the model and returns float64 arrays: one, or a
    tuple if the model has several output vectors. How long they are, the server says. One request
    is one evaluation; nothing is sent twice by itself. Each thread and each process has a
    connection of its own, which stays open where the server allows.

    Redirects are not followed, proxies not used, and certificates always checked.

    Args:
        url: where the server is, `http://` or `https://`.
        model: which of its models.
        config: is sent to the model with every request; what JSON can say.
        timeout: seconds for one request: to look its host up, to connect, to send, and to read all
            of the answer. The server may go on computing after it.
        max_bytes: no answer may be longer. So is the time bounded that it takes to understand one,
            which is not counted in `timeout`.

    Attributes:
        input_sizes: the length of each input vector.
        output_sizes: the length of each output vector.
        supports_gradient: whether the server has derivatives for reverse mode.
        supports_apply_jacobian: whether it has derivatives for forward mode.

    Raises:
        MethodError: if an argument is not lawful, the server does not have the model, or speaks
            another version of the protocol.
        TimedOut: if all of the answer is not there in time; so does each call.
        EvaluationError: if there is no connection, if it breaks, or if the server says that it
            failed; so does each call. `differentiable(…, retries=2)` tries such points again.
        BadResult: if the server answers with something else than the numbers that it has
            declared, redirects, or refuses the request; so does each call. That is not tried
            again: the answer would be the same.

    Example:
        >>> import suture, torch
        >>> url = "http://localhost:4242"
        >>> server = suture.functions.UMBridge(url, "forward")  # doctest: +SKIP
        >>> f = suture.differentiable(server, method=server.method())  # doctest: +SKIP
        >>> f(torch.tensor([1.0, 2.0], requires_grad=True)).sum().backward()  # doctest: +SKIP
    """

    def __init__(
        self,
        url: str,
        model: str,
        config: dict[str, Any] | None = None,
        *,
        timeout: float = _TIMEOUT,
        max_bytes: int = _MAX_BYTES,
    ) -> None:
        """Ask the server for the model and its sizes."""
        self.__name__ = self.model = model
        self.config = _as_json(config)
        self._server = Server(url, model, timeout, max_bytes)
        self._check_model()
        support = self._field("ModelInfo", "support", self._about(), dict)
        if support.get("Evaluate") is not True:
            raise MethodError(
                f"`{model}` cannot be evaluated.",
                "Its server does not support Evaluate for it.",
                "Implement `__call__` and `supports_evaluate` in the model.",
            )
        self.supports_gradient = support.get("Gradient") is True
        self.supports_apply_jacobian = support.get("ApplyJacobian") is True
        self.input_sizes = self._sizes("InputSizes", "inputSizes")
        self.output_sizes = self._sizes("OutputSizes", "outputSizes")

    def __repr__(self) -> str:
        return f"UMBridge({self._server.url!r}, {self.model!r})"

    def __call__(self, *inputs: Any) -> Any:
        """Evaluate the model.

        Args:
            *inputs: for each input vector a tensor, an array or a list of numbers.

        Returns:
            An array, or a tuple of arrays if the model has several output vectors.
        """
        question = {**self._about(), "input": self._vectors(inputs)}
        output = self._field("Evaluate", "output", question, list)
        return self._one_or_all(self._arrays("Evaluate", output, self.output_sizes))

    def method(self) -> AbstractMethod:
        """Return how to differentiate: with the server's own derivatives, where it has them.

        Reverse mode asks for `Gradient`, one request for each pair of an input vector and an
        output vector whose cotangent is not zero; forward mode for `ApplyJacobian`. What the
        server does not have is differenced: reverse mode as by default, and forward mode too if
        it has neither. (With `Gradient` alone, forward mode raises.)

        Example:
            >>> f = suture.differentiable(server, method=server.method())  # doctest: +SKIP
        """
        # A rule is what mathematics takes from the world; nothing else here needs torch.
        from suture._methods import CustomVJP, FiniteDifference

        if not (self.supports_gradient or self.supports_apply_jacobian):
            return FiniteDifference()
        return CustomVJP(self._vjp, self._jvp if self.supports_apply_jacobian else None)

    def _vjp(self, args: tuple[Any, ...], output: Any, cotangent: Any) -> tuple[Any, ...]:
        """Return Σ_o J_oiᵀ c_o for each input i; `NotImplemented` where the server cannot."""
        if not self.supports_gradient:
            return (NotImplemented,) * len(self.input_sizes)
        cotangents = [
            _array(c) for c in (cotangent if isinstance(cotangent, tuple) else [cotangent])
        ]
        gradients = [np.zeros(size) for size in self.input_sizes]
        if not all(np.isfinite(c).all() for c in cotangents):
            # JSON has no such numbers; neither has the product any other value.
            return tuple(gradient + np.nan for gradient in gradients)
        inputs = self._vectors(args)
        for i, o in np.ndindex(len(gradients), len(cotangents)):
            if cotangents[o].any():
                wanted = {"inWrt": i, "outWrt": o, "sens": cotangents[o].tolist()}
                gradients[i] += self._product("Gradient", inputs, wanted, self.input_sizes[i])
        return tuple(gradients)

    def _jvp(self, args: tuple[Any, ...], output: Any, tangents: tuple[Any, ...]) -> Any:
        """Return Σ_i J_oi t_i for each output o."""
        inputs, vectors = self._vectors(args), self._vectors(tangents)
        pushed = [np.zeros(size) for size in self.output_sizes]
        for i, o in np.ndindex(len(vectors), len(pushed)):
            if any(vectors[i]):
                wanted = {"inWrt": i, "outWrt": o, "vec": vectors[i]}
                pushed[o] += self._product("ApplyJacobian", inputs, wanted, self.output_sizes[o])
        return self._one_or_all(pushed)

    def _product(
        self, route: str, inputs: list[list[float]], wanted: dict[str, Any], size: int
    ) -> Array:
        question = {**self._about(), "input": inputs, **wanted}
        output = self._field(route, "output", question, list)
        return self._arrays(route, [output], (size,))[0]

    def _about(self) -> dict[str, Any]:
        return {"name": self.model, "config": self.config}

    def _one_or_all(self, arrays: list[Array]) -> Any:
        return arrays[0] if len(arrays) == 1 else tuple(arrays)

    def _vectors(self, inputs: Sequence[Any]) -> list[list[float]]:
        """Return the arguments as JSON has them, checked."""
        if any(getattr(given, "requires_grad", False) for given in inputs):
            raise MethodError(
                f"`{self.model}` was given a tensor that requires grad.",
                "The server returns plain numbers, so it would silently learn nothing.",
                "Wrap it, `f = suture.differentiable(server, method=server.method())`, and call "
                "`f`.",
            )
        arrays = [_array(given) for given in inputs]
        if [array.shape for array in arrays] != [(size,) for size in self.input_sizes]:
            raise MethodError(
                f"`{self.model}` was given shapes {[array.shape for array in arrays]}.",
                f"Its server takes {[(size,) for size in self.input_sizes]}: one vector for each "
                "argument.",
                "Reshape them, for example with `x.reshape(-1)`; for many points use "
                "`torch.vmap(f)`.",
            )
        if not all(np.isfinite(array).all() for array in arrays):
            raise MethodError(
                f"`{self.model}` was given nan or inf.",
                "JSON, which is sent to its server, has no such numbers.",
                "Restrict the inputs with `torch.clamp`, or look where `torch.isfinite` fails.",
            )
        return [array.tolist() for array in arrays]

    def _arrays(self, route: str, output: list[Any], sizes: tuple[int, ...]) -> list[Array]:
        """Return an answer as arrays of the sizes that the server has declared."""
        vectors = [vector if isinstance(vector, list) else [None] for vector in output]
        if not all(type(number) is float for vector in vectors for number in vector):
            raise self._unexpected(route, output, "Its output is made of vectors of numbers")
        got = tuple(len(vector) for vector in vectors)
        if got != sizes:
            raise BadResult(
                f"The server of `{self.model}` answered {route} with vectors of sizes {got}.",
                f"It has declared {sizes}.",
                f"Let `InputSizes` and `OutputSizes` of `{self.model}` say what it takes and "
                "returns.",
            )
        return [np.array(vector, np.float64) for vector in vectors]

    def _check_model(self) -> None:
        """Raise if the server does not speak the protocol, or does not have the model."""
        info = self._server.ask("Info")
        if not isinstance(info, dict) or not isinstance(info.get("models"), list):
            raise self._unexpected("Info", info, "It lists its version and its models")
        version, models = info.get("protocolVersion"), info["models"]
        if version != _PROTOCOL:
            raise MethodError(
                f"The server of `{self.model}` speaks version {shown(version)} of UM-Bridge.",
                "Suture speaks version 1.0.",
                "Use a server of version 1.0, such as `umbridge` 1.2.",
            )
        if self.model not in models:
            raise MethodError(
                f"The server has no model {shown(self.model)}.",
                f"It has {shown(models)}.",
                f"Write `UMBridge(…, {shown(models[0] if models else 'forward')})`.",
            )

    def _sizes(self, route: str, field: str) -> tuple[int, ...]:
        sizes = self._field(route, field, self._about(), list)
        if not sizes or not all(type(n) is float and n >= 0 and n.is_integer() for n in sizes):
            raise self._unexpected(route, sizes, "Sizes are whole numbers, one for each vector")
        return tuple(int(size) for size in sizes)

    def _field(self, route: str, field: str, question: dict[str, Any], kind: type) -> Any:
        answer = self._server.ask(route, question)
        found = answer.get(field) if isinstance(answer, dict) else None
        if not isinstance(found, kind):
            raise self._unexpected(route, answer, f'The protocol has an object with "{field}" here')
        return found

    def _unexpected(self, route: str, answer: object, why: str) -> BadResult:
        return BadResult(
            f"The server of `{self.model}` answered {route} with {shown(answer)}.",
            f"{why}.",
            "Compare it with a server of the package `umbridge`.",
        )


def _array(given: Any) -> Array:
    """Return a tensor (of any device and precision), an array or numbers as float64.

    Raises:
        MethodError: if these are no real numbers.
    """
    try:
        array = np.asarray(given.tolist() if hasattr(given, "tolist") else given)
    except ValueError:  # lists of different lengths
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf":
        raise MethodError(
            f"A model behind HTTP was given {shown(given)}.",
            "It takes vectors of real numbers: tensors, arrays or lists.",
            "Write, for example, `server([1.0, 2.0])`.",
        )
    return array.astype(np.float64)


def _as_json(config: Any) -> dict[str, Any]:
    """Return a copy of what the model is configured with."""
    try:
        copied = json.loads(json.dumps({} if config is None else config, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        copied = None
    if not isinstance(copied, dict):
        raise MethodError(
            f"`UMBridge(config={shown(config)})` is not possible.",
            "It is sent as JSON: a dict of finite numbers, strings, lists and dicts.",
            'Write, for example, `config={"level": 2}`.',
        )
    return copied
