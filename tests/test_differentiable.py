"""The verb and what it returns: decorator, methods of a class, names, nn.Module, bad keywords."""

import copy
import dataclasses
import functools
import gc
import inspect
import math
import pickle
import pydoc
import re
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from suture import (
    AbstractMethod,
    CustomVJP,
    Differentiable,
    FiniteDifference,
    Stencil,
    differentiable,
    directions,
    errors,
    stencils,
)
from suture.methods import Linearization


def square(x, power=2, *, shift=0.0):
    """Square x.

    Or take another power.
    """
    return x**power + shift


def point(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def gradient(f, *values):
    """Return the gradient of the sum of f, as a list of numbers."""
    x = point(*values)
    return torch.autograd.grad(f(x).sum(), x)[0].tolist()


def assert_three_lines(error, *words):
    lines = str(error).splitlines()
    assert len(lines) == 3
    assert all(line.strip() for line in lines)
    for word in words:
        assert word in str(error)


near = functools.partial(pytest.approx, rel=1e-6)

# Evaluations of the first gradient by one number: the forward pass, the noise, both sides.
FIRST = 1 + 6 + 2


# ------------------------------------------------------------------------------------------------
# The verb
# ------------------------------------------------------------------------------------------------


def test_function():
    f = differentiable(square)
    assert isinstance(f, Differentiable)
    assert isinstance(f, nn.Module)
    assert f.fn is square
    assert f.method == FiniteDifference()
    assert f.evaluations == 0
    assert gradient(f, 3.0) == near([6.0])
    assert f.evaluations == FIRST


def test_decorator():
    @differentiable
    def fn(x):
        return x * x

    assert isinstance(fn, Differentiable)
    assert gradient(fn, 3.0) == near([6.0])


def test_decorator_with_arguments():
    @differentiable(interface="numpy", method=FiniteDifference(stencils.CENTRAL))
    def fn(x):
        assert type(x) is np.ndarray
        return x * x

    assert isinstance(fn, Differentiable)
    assert gradient(fn, 3.0) == near([6.0])
    assert fn.evaluations == 3


def test_decorator_with_empty_arguments():
    @differentiable()
    def fn(x):
        return x * x

    assert gradient(fn, 3.0) == near([6.0])


def test_each_wrapping_counts_for_itself():
    f, g = differentiable(square), differentiable(square)
    gradient(f, 3.0)
    assert (f.evaluations, g.evaluations) == (FIRST, 0)


def test_evaluations_is_an_integer_that_cannot_be_set():
    f = differentiable(square)
    assert type(f.evaluations) is int
    with pytest.raises(AttributeError):
        f.evaluations = 5


@pytest.mark.parametrize(
    "fn",
    [
        functools.partial(square, power=2),
        functools.partial(torch.pow, exponent=2),
        torch.square,
        np.square,
        lambda x: x * x,
        type("Squarer", (), {"__call__": lambda self, x: x * x})(),
        type("Model", (), {"run": lambda self, x: x * x})().run,
        torch.jit.ignore(lambda x: x * x),
    ],
    ids=["partial", "torch partial", "builtin", "ufunc", "lambda", "callable", "bound", "ignored"],
)
def test_any_callable(fn):
    interface = "numpy" if isinstance(fn, np.ufunc) else "torch"
    f = differentiable(fn, interface=interface)
    assert gradient(f, 1.0, 3.0) == near([2.0, 6.0])
    assert repr(f)
    assert isinstance(f.__name__, str)


@pytest.mark.parametrize(
    ("fn", "derivative"),
    [(math.sin, math.cos), (math.exp, math.exp), (float, lambda x: 1.0), (abs, lambda x: 1.0)],
)
@pytest.mark.parametrize("interface", ["torch", "numpy"])
def test_builtin_of_a_number(fn, derivative, interface):
    f = differentiable(fn, interface=interface)
    x = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    y = f(x)
    assert y.shape == ()
    (found,) = torch.autograd.grad(y, x)
    assert found.item() == near(derivative(0.7))


def test_seed_repeats_and_changes_the_directions():
    method = FiniteDifference(directions=directions.Gaussian(1))

    def draw(seed):
        return gradient(differentiable(square, method=method, seed=seed), 1.0, 2.0, 3.0)

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)
    assert draw(None) == draw(None)


def test_torch_generator_is_not_touched():
    method = FiniteDifference(directions=directions.Rademacher(2))
    state = torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002 - the legacy state is meant
    gradient(differentiable(square, method=method), 1.0, 2.0)
    gradient(differentiable(square, method=method, seed=1), 1.0, 2.0)
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002 - as above


# ------------------------------------------------------------------------------------------------
# Name, docstring, signature, repr
# ------------------------------------------------------------------------------------------------


def test_name_docstring_and_signature_are_kept():
    f = differentiable(square)
    assert f.__name__ == "square"
    assert f.__doc__ == square.__doc__
    assert f.__wrapped__ is square
    assert inspect.signature(f) == inspect.signature(square)
    assert f.__signature__ == inspect.signature(square)


def test_decorated_name_docstring_and_module():
    @differentiable(batch_dims=0)
    def fn(x: torch.Tensor, *, n: int = 2) -> torch.Tensor:
        """Do nothing."""
        return x

    assert fn.__name__ == "fn"
    assert fn.__doc__ == "Do nothing."
    assert fn.__module__ == __name__
    assert str(inspect.signature(fn)) == "(x: torch.Tensor, *, n: int = 2) -> torch.Tensor"


def test_help_shows_the_docstring_of_the_function():
    assert "Or take another power." in pydoc.plain(pydoc.render_doc(differentiable(square)))


def test_documentation_of_the_class_is_its_own():
    differentiable(square)
    assert Differentiable.__name__ == "Differentiable"
    assert Differentiable.__doc__
    assert "Or take another power." not in Differentiable.__doc__


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (square, "square"),
        (lambda x: x, "<lambda>"),
        (functools.partial(square, power=3), "square"),
        (type("Squarer", (), {"__call__": lambda self, x: x})(), "Squarer"),
        (math.sin, "sin"),
        (torch.square, "square"),
        (nn.Linear(2, 2).requires_grad_(False), "Linear"),
    ],
    ids=["function", "lambda", "partial", "object", "math", "torch", "Module"],
)
def test_name(fn, name):
    f = differentiable(fn)
    assert f.__name__ == name
    assert name in repr(f)


def test_name_can_be_given():
    f = differentiable(lambda x: x, name="wave")
    assert f.__name__ == "wave"
    assert "wave" in repr(f)


def test_name_stands_in_the_errors():
    f = differentiable(lambda x: "text", name="wave")
    with pytest.raises(errors.BadResult) as caught:
        f(point(1.0))
    assert_three_lines(caught.value, "`wave`")


@pytest.mark.parametrize(
    ("method", "cost"),
    [
        (FiniteDifference(), "n"),
        (FiniteDifference(stencils.FORWARD), "n"),
        (FiniteDifference(stencils.CENTRAL), "2n"),
        (FiniteDifference(stencils.central(4)), "4n"),
        (FiniteDifference(stencils.COMPLEX_STEP), "n"),
        (FiniteDifference(stencils.CENTRAL, directions.Rademacher(4)), "8"),
        (CustomVJP(lambda args, output, cotangent: (None,)), "0"),
    ],
    ids=["default", "FORWARD", "CENTRAL", "central(4)", "COMPLEX_STEP", "Rademacher", "CustomVJP"],
)
def test_repr_says_function_method_and_evaluations_per_gradient(method, cost):
    text = repr(differentiable(square, method=method))
    assert "square" in text
    assert repr(method) in text
    assert re.search(rf"\b{cost} evaluations per gradient|evaluations per gradient: {cost}\b", text)
    assert len(text.splitlines()) == 1


# ------------------------------------------------------------------------------------------------
# Methods of a class
# ------------------------------------------------------------------------------------------------


class Model:
    """Not a Module, not hashable by anything but identity."""

    def __init__(self, factor=1.0):
        self.factor = factor

    @differentiable
    def run(self, x):
        """Multiply the square of x."""
        return self.factor * x * x

    @differentiable(interface="numpy", method=FiniteDifference(stencils.CENTRAL))
    def run_numpy(self, x, *, power=2):
        assert type(x) is np.ndarray
        return self.factor * x**power


def test_method():
    model = Model(3.0)
    assert isinstance(model.run, Differentiable)
    assert gradient(model.run, 2.0) == near([12.0])
    assert gradient(functools.partial(model.run_numpy, power=3), 2.0) == near([36.0])


def test_method_sees_its_instance_as_it_is_now():
    model = Model(3.0)
    gradient(model.run, 2.0)
    model.factor = 5.0
    assert gradient(model.run, 2.0) == near([20.0])


def test_each_instance_counts_for_itself():
    first, second = Model(), Model()
    gradient(first.run, 2.0)
    assert (first.run.evaluations, second.run.evaluations) == (FIRST, 0)
    gradient(second.run, 2.0)
    gradient(first.run, 2.0)
    assert (first.run.evaluations, second.run.evaluations) == (FIRST + 2, FIRST)
    assert first.run_numpy.evaluations == 0


def test_temporary_instance():
    x = point(2.0)
    y = Model(3.0).run(x)
    gc.collect()
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == near([12.0])


def test_bound_method_of_a_temporary_instance():
    run = Model(3.0).run
    gc.collect()
    assert gradient(run, 2.0) == near([12.0])
    assert run.evaluations == FIRST


def test_instance_is_freed():
    model = Model()
    alive = weakref.ref(model)
    gradient(model.run, 2.0)
    del model
    gc.collect()
    assert alive() is None


def test_many_instances_leave_nothing_behind():
    alive = []
    for factor in range(1, 6):
        model = Model(float(factor))
        gradient(model.run, 2.0)
        alive.append(weakref.ref(model))
    del model
    gc.collect()
    assert [ref() for ref in alive] == [None] * 5


@pytest.mark.parametrize("frozen", [False, True])
def test_instance_of_a_dataclass(frozen):
    @dataclasses.dataclass(frozen=frozen, eq=True)
    class Spring:
        stiffness: float

        @differentiable
        def force(self, x):
            return self.stiffness * x * x

    soft, equal = Spring(1.0), Spring(1.0)
    assert soft == equal
    assert gradient(soft.force, 2.0) == near([4.0])
    assert (soft.force.evaluations, equal.force.evaluations) == (FIRST, 0)
    alive = weakref.ref(soft)
    del soft
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("slots", [("factor", "__weakref__"), ("factor",)])
def test_instance_with_slots(slots):
    class Slotted:
        __slots__ = slots

        def __init__(self, factor):
            self.factor = factor

        @differentiable
        def run(self, x):
            return self.factor * x * x

    """Where an instance cannot be held weakly, all of them share one counter."""
    first, second = Slotted(3.0), Slotted(5.0)
    assert gradient(first.run, 2.0) == near([12.0])
    assert gradient(second.run, 2.0) == near([20.0])
    assert first.run.evaluations == (FIRST if "__weakref__" in slots else FIRST + 2)


def test_instance_with_an_unfriendly_hash_and_truth():
    class Unfriendly:
        __hash__ = None

        def __bool__(self):
            raise TypeError("no truth")

        def __len__(self):
            raise TypeError("no length")

        @differentiable
        def run(self, x):
            return x * x

    model = Unfriendly()
    assert gradient(model.run, 2.0) == near([4.0])
    assert model.run.evaluations == FIRST


def test_through_the_class():
    assert isinstance(Model.run, Differentiable)
    assert Model.run.__name__ == "run"
    model, x = Model(3.0), point(2.0)
    (found,) = torch.autograd.grad(Model.run(model, x).sum(), x)
    assert found.tolist() == near([12.0])


def test_method_keeps_name_docstring_and_signature():
    model = Model()
    assert model.run.__name__ == "run"
    assert model.run.__doc__ == "Multiply the square of x."
    assert str(inspect.signature(model.run)) == "(x)"
    assert str(inspect.signature(model.run_numpy)) == "(x, *, power=2)"
    assert str(inspect.signature(Model.run)) == "(self, x)"
    assert "run" in repr(model.run)


def test_inherited_method():
    class Child(Model):
        pass

    child, parent = Child(3.0), Model(3.0)
    assert gradient(child.run, 2.0) == near([12.0])
    assert (child.run.evaluations, parent.run.evaluations) == (FIRST, 0)


def test_overridden_method_calls_its_parent():
    class Child(Model):
        @differentiable
        def run(self, x):
            return super().run(x) + x

    child = Child(3.0)
    assert gradient(child.run, 2.0) == near([13.0])
    assert child.run.evaluations == FIRST


def test_method_decorated_in_another_class_is_not_shared():
    class One:
        @differentiable
        def run(self, x):
            return x

    class Two:
        run = One.run

    one, two = One(), Two()
    gradient(one.run, 1.0)
    assert (one.run.evaluations, two.run.evaluations) == (FIRST, 0)


def test_class_method_and_static_method():
    class Tools:
        factor = 3.0

        @classmethod
        @differentiable
        def of_class(cls, x):
            return cls.factor * x * x

        @staticmethod
        @differentiable
        def of_nothing(x):
            return x * x

    assert gradient(Tools.of_nothing, 2.0) == near([4.0])
    assert gradient(Tools().of_nothing, 2.0) == near([4.0])
    assert gradient(Tools.of_class, 2.0) == near([12.0])
    assert gradient(Tools().of_class, 2.0) == near([12.0])


def test_static_method_is_wrapped_too():
    class Tools:
        @differentiable
        @staticmethod
        def run(x):
            return x * x

    assert gradient(Tools.run, 2.0) == near([4.0])


def test_deepcopy_of_an_instance_counts_for_itself():
    model = Model(3.0)
    gradient(model.run, 2.0)
    twin = copy.deepcopy(model)
    assert gradient(twin.run, 2.0) == near([12.0])
    assert model.run.evaluations == FIRST


def test_instance_can_be_pickled():
    model = Model(3.0)
    gradient(model.run, 2.0)
    twin = pickle.loads(pickle.dumps(model))
    assert gradient(twin.run, 2.0) == near([12.0])


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda run: pickle.loads(pickle.dumps(run))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_duplicate_of_a_bound_method(duplicate):
    model = Model(3.0)
    gradient(model.run, 2.0)
    run = duplicate(model.run)
    assert isinstance(run, Differentiable)
    assert gradient(run, 2.0) == near([12.0])


def test_module_that_holds_a_bound_method():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = Model(3.0)
            self.run = self.model.run

        def forward(self, x):
            return self.run(x)

    layer = Layer()
    twin = copy.deepcopy(layer)
    twin.model.factor = 5.0
    assert gradient(layer, 2.0) == near([12.0])
    assert gradient(twin, 2.0) == near([20.0])


def test_hooks_of_a_bound_method_are_its_own():
    first, second, seen = Model(1.0), Model(2.0), []
    run = first.run
    run.register_forward_hook(lambda module, args, output: seen.append(output))
    run(point(2.0))
    assert len(seen) == 1
    second.run(point(2.0))
    assert len(seen) == 1


def test_method_of_a_frozen_module():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64), False)

        @differentiable
        def forward(self, x):
            return self.weight * x * x

    module = Frozen()
    assert gradient(module, 3.0) == near([12.0])
    assert module.forward.evaluations == FIRST
    assert list(module.state_dict()) == ["weight"]


def test_method_of_a_module_with_trainable_parameters():
    class Trainable(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))

        @differentiable
        def forward(self, x):
            return self.weight * x * x

    with pytest.raises(errors.MethodError) as caught:
        Trainable()(point(3.0))
    assert_three_lines(caught.value, "forward", "requires_grad_(False)")


# ------------------------------------------------------------------------------------------------
# Tensors that the function holds
# ------------------------------------------------------------------------------------------------

trainable = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)


class Holder:
    def __init__(self, weight):
        self.weight = weight

    def __call__(self, x):
        return self.weight * x

    def run(self, x):
        return self.weight * x


def closure_over(weight):
    return lambda x: weight * x


def default_of(weight):
    def fn(x, weight=weight):
        return weight * x

    return fn


HOLDERS = {
    "closure": closure_over(trainable),
    "partial": functools.partial(torch.mul, trainable),
    "partial keyword": functools.partial(torch.mul, other=trainable),
    "attribute": Holder(trainable),
    "bound method": Holder(trainable).run,
    "in a list": closure_over([trainable]),
    "in a dict": closure_over({"w": [trainable]}),
    "object in a closure": closure_over(Holder(trainable).weight),
    "Module": nn.Linear(1, 1),
    "Module in a closure": closure_over(nn.Linear(1, 1).weight),
    "partial of a closure": functools.partial(closure_over(trainable)),
    "wrapped": functools.wraps(closure_over(trainable))(closure_over(trainable)),
}


@pytest.mark.parametrize("fn", HOLDERS.values(), ids=HOLDERS)
def test_function_that_holds_a_tensor_that_requires_grad(fn):
    with pytest.raises(errors.MethodError) as caught:
        differentiable(fn, dtype=None)(point(3.0))
    assert_three_lines(caught.value, "requires_grad_(False)")


def test_held_tensor_that_is_unfrozen_later():
    layer = nn.Linear(1, 1, dtype=torch.float64).requires_grad_(False)
    f = differentiable(layer)
    assert gradient(f, 3.0) == near(layer.weight[0].tolist())
    layer.requires_grad_()
    with pytest.raises(errors.MethodError):
        f(point(3.0))


def test_held_tensor_under_no_grad():
    f = differentiable(HOLDERS["attribute"])
    with torch.no_grad():
        assert f(point(3.0)).tolist() == [6.0]


def test_frozen_module_is_welcome_and_not_a_submodule():
    layer = nn.Linear(2, 1, dtype=torch.float64).requires_grad_(False)
    f = differentiable(layer)
    assert gradient(f, 1.0, 2.0) == near(layer.weight[0].tolist())
    assert list(f.parameters()) == []
    assert list(f.children()) == []
    assert f.fn is layer


def test_module_that_changes_mode_between_forward_and_backward():
    layer = nn.Sequential(nn.Linear(2, 2, dtype=torch.float64), nn.Dropout(0.5))
    layer.requires_grad_(False).eval()
    f = differentiable(layer)
    y = f(point(1.0, 2.0)).sum()
    layer.train()
    with pytest.raises(errors.MethodError) as caught:
        y.backward()
    assert_three_lines(caught.value, "eval")


def test_module_in_one_mode():
    layer = nn.Linear(2, 2, dtype=torch.float64).requires_grad_(False)
    f = differentiable(layer)
    for mode in (True, False):
        layer.train(mode)
        assert gradient(f, 1.0, 2.0) == near(layer.weight.sum(0).tolist())


# ------------------------------------------------------------------------------------------------
# An nn.Module
# ------------------------------------------------------------------------------------------------


def test_module_without_parameters():
    f = differentiable(square)
    assert list(f.parameters()) == []
    assert list(f.buffers()) == []
    assert not [value for value in f.state_dict().values() if value.numel()]


def test_state_dict_loads_strictly():
    f = differentiable(square)
    f.load_state_dict(f.state_dict(), strict=True)
    gradient(f, 1.0)
    differentiable(square).load_state_dict(f.state_dict(), strict=True)
    model = nn.Sequential(nn.Linear(2, 2), f)
    model.load_state_dict(model.state_dict(), strict=True)


def test_checkpoint_from_before_the_black_box_loads():
    """A state dict that knows nothing of the black box is not an error."""
    plain = nn.Sequential(nn.Linear(2, 2), nn.Identity())
    model = nn.Sequential(nn.Linear(2, 2), differentiable(square))
    model.load_state_dict(plain.state_dict(), strict=True)


def test_in_a_sequential():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), differentiable(square), nn.Linear(3, 1))
    twin = copy.deepcopy(model)
    twin[1] = nn.Identity()
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    model(x).sum().backward()
    hidden = twin[0](x)
    twin[2](hidden**2).sum().backward()
    for mine, exact in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, exact.grad, rtol=1e-5, atol=1e-5)


def test_movement_and_modes():
    model = nn.Sequential(nn.Linear(2, 2), differentiable(square))
    model.to(torch.float64).to("cpu").train().eval().requires_grad_(False).zero_grad()
    assert model.double()(torch.ones(1, 2, dtype=torch.float64)).dtype is torch.float64
    assert "square" in repr(model)
    assert [type(module) for module in model.modules()][-1] is Differentiable
    model.apply(lambda module: None)


def test_hooks_run():
    f, seen = differentiable(square), []
    f.register_forward_hook(lambda module, args, output: seen.append(output))
    f.register_forward_pre_hook(lambda module, args: seen.append(args))
    f(point(2.0))
    assert len(seen) == 2


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copy(duplicate):
    f = differentiable(square, method=FiniteDifference(stencils.CENTRAL), name="wave")
    gradient(f, 1.0)
    twin = duplicate(f)
    assert twin is not f
    assert gradient(twin, 3.0) == near([6.0])
    assert twin.method == f.method
    assert twin.__name__ == "wave"
    assert inspect.signature(twin) == inspect.signature(square)


def test_deepcopy_counts_for_itself():
    f = differentiable(square)
    gradient(f, 1.0)
    twin = copy.deepcopy(f)
    gradient(twin, 1.0)
    assert f.evaluations == FIRST


def test_deepcopy_of_a_trained_model():
    model = nn.Sequential(nn.Linear(2, 2), differentiable(square))
    model(torch.ones(1, 2)).sum().backward()
    twin = copy.deepcopy(model)
    twin(torch.ones(1, 2)).sum().backward()


def test_pickle_of_a_module_level_function():
    f = differentiable(square, method=FiniteDifference(stencils.CENTRAL), scale=(2.0,), seed=3)
    gradient(f, 1.0)
    twin = pickle.loads(pickle.dumps(f))
    assert isinstance(twin, Differentiable)
    assert twin.fn is square
    assert twin.method == f.method
    assert gradient(twin, 3.0) == gradient(f, 3.0)
    assert inspect.signature(twin) == inspect.signature(square)


def test_submodule_attribute_of_a_user_module():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([3.0]))
            self.box = differentiable(lambda x, w: w * x * x)

        def forward(self, x):
            return self.box(x, self.weight)

    layer = Layer()
    layer(torch.tensor([2.0])).sum().backward()
    torch.testing.assert_close(layer.weight.grad, torch.tensor([4.0]))
    assert "box" in dict(layer.named_children())
    assert [name for name, _ in layer.named_parameters()] == ["weight"]


# ------------------------------------------------------------------------------------------------
# Construction errors
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"interface": "jax"}, ["interface", "jax", "numpy"]),
        ({"interface": None}, ["interface"]),
        ({"dtype": torch.int64}, ["dtype", "torch.int64"]),
        ({"dtype": torch.bool}, ["dtype"]),
        ({"dtype": torch.complex64}, ["dtype", "complex64"]),
        ({"dtype": "float64"}, ["dtype", "float64"]),
        ({"dtype": np.float64}, ["dtype"]),
        ({"dtype": torch.bfloat16, "interface": "numpy"}, ["dtype", "bfloat16"]),
        ({"chunk_size": 0}, ["chunk_size", "0"]),
        ({"chunk_size": -2}, ["chunk_size", "-2"]),
        ({"chunk_size": 2.5}, ["chunk_size", "2.5"]),
        ({"chunk_size": True}, ["chunk_size"]),
        ({"seed": "x"}, ["seed"]),
        ({"seed": 1.5}, ["seed"]),
        ({"name": 3}, ["name"]),
        ({"vectorized": "yes"}, ["vectorized"]),
        ({"method": None}, ["method"]),
        ({"method": stencils.CENTRAL}, ["method", "FiniteDifference"]),
        ({"method": FiniteDifference}, ["method", "FiniteDifference("]),
        ({"method": "central"}, ["central", "stencils.CENTRAL"]),
        ({"method": "auto"}, ["auto", "FiniteDifference"]),
        ({"method": directions.Gaussian(3)}, ["method"]),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, dict) else "",
)
def test_bad_keyword(keywords, words):
    with pytest.raises(errors.MethodError) as caught:
        differentiable(square, **keywords)
    assert_three_lines(caught.value, *words)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("keywords", [{"interface": "jax"}, {"chunk_size": 0}, {"method": "auto"}])
def test_bad_keyword_of_the_decorator(keywords):
    with pytest.raises(errors.MethodError):
        differentiable(**keywords)(square)


@pytest.mark.parametrize("keyword", ["pool", "eps", "device"])
def test_unknown_keyword(keyword):
    with pytest.raises(TypeError, match=keyword):
        differentiable(square, **{keyword: 1})


@pytest.mark.parametrize("fn", [3, "f", torch.ones(2), [square]])
def test_not_callable(fn):
    with pytest.raises(errors.MethodError) as caught:
        differentiable(fn)
    assert_three_lines(caught.value)
    with pytest.raises(errors.MethodError):
        differentiable(interface="numpy")(fn)


def test_wrapped_twice():
    with pytest.raises(errors.MethodError) as caught:
        differentiable(differentiable(square))
    assert_three_lines(caught.value, "square")


def test_bound_method_wrapped_twice():
    with pytest.raises(errors.MethodError):
        differentiable(Model().run)


@pytest.mark.parametrize(
    "scale",
    [
        (1.0, 2.0, 3.0),
        {"x": 1.0},
        (torch.ones(5),),
        ([1.0, 2.0],),
        ("large",),
        "large",
        -1.0,
        (0.0,),
        (float("nan"),),
        (float("inf"),),
        (torch.tensor([1.0, -1.0, 1.0]),),
        (torch.tensor([1j, 1j, 1j]),),
    ],
    ids=[
        "too many", "dict", "wrong shape", "wrong structure", "nested string", "string",
        "negative", "zero", "NaN", "infinity", "one negative", "complex",
    ],
)  # fmt: skip
def test_scale_that_does_not_fit_the_arguments(scale):
    """Refused with the keyword or with the first arguments, in any case before fn is called."""
    calls = []
    x = point(1.0, 2.0, 3.0)
    with pytest.raises(errors.MethodError) as caught:
        differentiable(lambda x: calls.append(x), scale=scale)(x)
    assert_three_lines(caught.value, "scale")
    assert not calls


# ------------------------------------------------------------------------------------------------
# Methods, stencils, directions
# ------------------------------------------------------------------------------------------------


def test_methods_are_frozen_values():
    assert FiniteDifference() == FiniteDifference(None, directions.Coordinate())
    assert FiniteDifference(stencils.CENTRAL) != FiniteDifference(stencils.FORWARD)
    assert hash(FiniteDifference(step=0.1)) == hash(FiniteDifference(step=0.1))
    assert issubclass(FiniteDifference, AbstractMethod)
    assert issubclass(CustomVJP, AbstractMethod)
    with pytest.raises(dataclasses.FrozenInstanceError):
        FiniteDifference().step = 1.0
    with pytest.raises(TypeError):
        AbstractMethod()


def test_step_and_noise_are_keywords():
    with pytest.raises(TypeError):
        FiniteDifference(stencils.CENTRAL, directions.Coordinate(), 0.1)


@pytest.mark.parametrize(
    ("arguments", "keywords", "words"),
    [
        (("central",), {}, ["central", "stencils.CENTRAL"]),
        (("forward",), {}, ["forward", "stencils."]),
        ((2,), {}, ["stencil"]),
        ((stencils.central,), {}, ["stencil"]),
        ((directions.Coordinate(),), {}, ["stencil"]),
        ((None, stencils.CENTRAL), {}, ["directions"]),
        ((None, "gaussian"), {}, ["gaussian", "suture.directions"]),
        ((None, directions.Gaussian), {}, ["directions"]),
        ((None, None), {}, ["directions"]),
        ((), {"step": 0.0}, ["step"]),
        ((), {"step": -1e-6}, ["step"]),
        ((), {"step": float("nan")}, ["step"]),
        ((), {"step": float("inf")}, ["step"]),
        ((), {"step": "small"}, ["step"]),
        ((), {"noise": 0.0}, ["noise"]),
        ((), {"noise": -1e-6}, ["noise"]),
        ((), {"noise": float("nan")}, ["noise"]),
        ((), {"noise": float("inf")}, ["noise"]),
        ((), {"noise": "loud"}, ["noise"]),
        ((stencils.ONE_POINT,), {}, ["ONE_POINT", "Gaussian"]),
        (
            (stencils.ONE_POINT, directions.Gaussian(4, recovery="least_squares")),
            {},
            ["mean"],
        ),
    ],
)
def test_unlawful_finite_difference(arguments, keywords, words):
    with pytest.raises(errors.MethodError) as caught:
        FiniteDifference(*arguments, **keywords)
    assert_three_lines(caught.value, *words)


@pytest.mark.parametrize(
    "stencil",
    [
        stencils.FORWARD, stencils.BACKWARD, stencils.CENTRAL, stencils.COMPLEX_STEP,
        stencils.central(8), stencils.richardson(1),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "kind",
    [
        directions.Coordinate(),
        directions.Gaussian(2),
        directions.Rademacher(2, recovery="least_squares"),
        directions.Orthogonal(2),
    ],
)
def test_lawful_pairs(stencil, kind):
    method = FiniteDifference(stencil, kind)
    assert method.stencil is stencil
    assert method.directions is kind


@pytest.mark.parametrize(
    "kind", [directions.Gaussian, directions.Rademacher, directions.Orthogonal]
)
@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        ((0,), {}),
        ((-1,), {}),
        ((2.5,), {}),
        ((True,), {}),
        (("four",), {}),
        ((4,), {"recovery": "median"}),
        ((4,), {"recovery": None}),
    ],
)
def test_unlawful_directions(kind, arguments, keywords):
    with pytest.raises(errors.MethodError) as caught:
        kind(*arguments, **keywords)
    assert_three_lines(caught.value, kind.__name__)


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ((0, 1), (-1, 1, 1)),
        ((0, 1), (1,)),
        ((1, 1), (0.5, 0.5)),
        ((0, 1), (-2, 2)),
        ((-1, 1), (0.5, 0.5)),
        ((), ()),
        ((0,), (1,)),
        ((0, 1), (float("nan"), 1)),
        ((0, float("inf")), (1, 1)),
        ((1j,), (1j,)),
    ],
)
def test_unlawful_stencil(nodes, weights):
    with pytest.raises(errors.MethodError) as caught:
        Stencil(nodes, weights, order=1)
    assert_three_lines(caught.value)


@pytest.mark.parametrize("order", [0, 1, 3, -2, 2.0, "2"])
def test_central_that_does_not_exist(order):
    with pytest.raises(errors.MethodError) as caught:
        stencils.central(order)
    assert_three_lines(caught.value, "central")


@pytest.mark.parametrize("levels", [0, -1, 1.5, "2"])
def test_richardson_that_does_not_exist(levels):
    with pytest.raises(errors.MethodError) as caught:
        stencils.richardson(levels)
    assert_three_lines(caught.value, "richardson")


def test_own_stencil():
    """Second-order forward: the rule of Fornberg (1988), table 3."""
    rule = Stencil(nodes=(0, 1, 2), weights=(-1.5, 2.0, -0.5), order=2)
    f = differentiable(lambda x: x**3, method=FiniteDifference(rule))
    assert gradient(f, 1.0, 2.0) == pytest.approx([3.0, 12.0], rel=1e-8)
    assert f.evaluations == 1 + 2 * 2


@pytest.mark.parametrize("vjp", [None, 3, "vjp"])
def test_custom_vjp_needs_a_callable(vjp):
    with pytest.raises(errors.MethodError) as caught:
        CustomVJP(vjp)
    assert_three_lines(caught.value, "vjp")


@pytest.mark.parametrize("jvp", [3, "jvp"])
def test_custom_jvp_needs_a_callable(jvp):
    with pytest.raises(errors.MethodError) as caught:
        CustomVJP(lambda args, output, cotangent: cotangent, jvp)
    assert_three_lines(caught.value, "jvp")


def test_four_members_make_a_method():
    class Half(AbstractMethod):
        """Slopes of one half, whatever f is."""

        cost = "0"

        def linearize(self, primal, keep, draw):
            yield from ()
            slopes = np.full((primal.columns, len(primal.rows), primal.outputs), 0.5)
            seeds = np.arange(primal.columns)
            return Linearization(directions.Coordinate(), seeds, keep(slopes), None, None)

        def push(self, primal, rows, shared):
            linearization = yield from self.linearize(primal, np.array, np.random.default_rng)
            return linearization.pushforward(rows, shared)

        def outer_step(self, noise):
            return noise ** (1 / 3)

    half = Half()
    said = half.needs_value(), half.is_complex(), half.is_absolute(), half.noise_floor()
    assert said == (True, False, False, 0.0)
    assert not half.transposes_by_difference()
    assert not any(half.answers_failures(p) for p in ("raise", "shrink", "one_sided", "skip"))
    f = differentiable(torch.sin, method=half)
    x = torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(torch.func.jacrev(f)(x), torch.full((2, 2), 0.5).double())
    torch.testing.assert_close(torch.func.jacfwd(f)(x), torch.full((2, 2), 0.5).double())
    assert f.evaluations == 2
