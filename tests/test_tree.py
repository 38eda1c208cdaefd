"""Trees: torch's own pytrees, and prefixes of the arguments as `in_dims` is one."""

import collections
import dataclasses

import pytest
import torch
from torch.utils import _pytree as pytree

from suture import _tree
from suture.errors import MethodError

Pair = collections.namedtuple("Pair", ["left", "right"])


@dataclasses.dataclass
class Spring:
    length: object
    stiffness: object


@pytest.fixture
def registered():
    pytree.register_pytree_node(
        Spring,
        lambda spring: ([spring.length, spring.stiffness], None),
        lambda leaves, _: Spring(*leaves),
        flatten_with_keys_fn=lambda spring: (
            [
                (pytree.GetAttrKey("length"), spring.length),
                (pytree.GetAttrKey("stiffness"), spring.stiffness),
            ],
            None,
        ),
    )
    yield
    pytree._deregister_pytree_node(Spring)


TREES = [
    (1, [1]),
    (None, [None]),
    ("text", ["text"]),
    ((), []),
    ((1, [2, {"a": 3}]), [1, 2, 3]),
    ({"b": 1, "a": (2, None)}, [1, 2, None]),
    (Pair(1, (2, 3)), [1, 2, 3]),
    (collections.OrderedDict(z=1, a=2), [1, 2]),
    ([[[]], {}, ((1,),)], [1]),
]


@pytest.mark.parametrize(("tree", "leaves"), TREES, ids=repr)
def test_round_trip(tree, leaves):
    found, structure = _tree.flatten(tree)
    assert sorted(map(repr, found)) == sorted(map(repr, leaves))
    again = _tree.unflatten(found, structure)
    assert again == tree
    assert type(again) is type(tree)


def test_tensors_are_leaves():
    x = torch.ones(2, 3)
    leaves, structure = _tree.flatten({"x": [x]})
    assert leaves[0] is x
    assert _tree.unflatten(["y"], structure) == {"x": ["y"]}


def test_one_leaf_has_the_structure_of_a_leaf():
    assert _tree.flatten("anything")[1] == _tree.LEAF
    assert _tree.LEAF.is_leaf()
    assert _tree.flatten(("anything",))[1] != _tree.LEAF


def test_registered_types_are_looked_into(registered):
    leaves, structure = _tree.flatten((Spring(1, [2, 3]),))
    assert leaves == [1, 2, 3]
    assert _tree.unflatten([4, 5, 6], structure) == (Spring(4, [5, 6]),)


def test_other_types_are_leaves():
    spring = Spring(1, 2)
    assert _tree.flatten([spring])[0] == [spring]


def test_paths_say_what_one_would_type(registered):
    tree = ([1, {"mass": 2}], {"spring": Spring(3, (4,)), "pair": Pair(5, 6)})
    found = dict(zip(_tree.flatten(tree)[0], _tree.paths(tree), strict=True))
    assert found == {
        1: "[0][0]",
        2: "[0][1]['mass']",
        3: "[1]['spring'].length",
        4: "[1]['spring'].stiffness[0]",
        5: "[1]['pair'].left",
        6: "[1]['pair'].right",
    }


def test_one_leaf_has_no_path():
    assert _tree.paths(7) == [""]


# Prefixes.

ARGUMENTS = ("x", {"mass": "m", "parts": ["p", "q"]}, None)


def structure_of(*args, **kwargs):
    return _tree.flatten((args, kwargs))[1]


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        (0, [0, 0, 0, 0, 0]),
        (None, [None] * 5),
        ((0, None, None), [0, None, None, None, None]),
        ((0, 1, 2), [0, 1, 1, 1, 2]),
        ((0, {"mass": 1, "parts": 2}, None), [0, 1, 2, 2, None]),
        ((0, {"mass": None, "parts": [1, 2]}, 3), [0, None, 1, 2, 3]),
    ],
)
def test_prefix_of_the_arguments(prefix, expected):
    assert _tree.broadcast(prefix, structure_of(*ARGUMENTS), 3, "batch_dims") == expected


def test_keyword_only_arguments_get_none():
    structure = structure_of("x", "y", mass="m", parts=["p"])
    assert _tree.broadcast((0, 1), structure, 2, "batch_dims") == [0, 1, None, None]
    assert _tree.broadcast(0, structure, 2, "batch_dims") == [0, 0, None, None]


@pytest.mark.parametrize(
    "prefix",
    [
        (),
        (0,),
        (0, None),
        (0, None, None, None),
        ((0,), None, None),
        (0, {"mass": 1}, None),
        (0, {"mass": 1, "charge": 2}, None),
        (0, {"mass": 1, "parts": [2]}, None),
        (0, {"mass": 1, "parts": (2, 3)}, None),
        (0, [1, 2], None),
        [0, None, None],
    ],
    ids=repr,
)
def test_what_is_no_prefix(prefix):
    structure = structure_of(*ARGUMENTS)
    assert _tree.spread((prefix, None), structure) is None
    with pytest.raises(MethodError) as caught:
        _tree.broadcast(prefix, structure, 3, "scale")
    assert str(caught.value).splitlines() == [
        f"`scale={prefix!r}` does not fit a call with 3 positional arguments.",
        "`scale` is a prefix of the tuple of positional arguments, as `in_dims` is in "
        "`torch.vmap`.",
        "Give one entry for each positional argument, for example `scale=(0, None, None)`.",
    ]


@pytest.mark.parametrize(
    ("count", "phrase", "example"),
    [(0, "0 positional arguments", "()"), (1, "1 positional argument", "(0,)")],
)
def test_the_example_fits_the_call(count, phrase, example):
    args = ("x",) * count
    with pytest.raises(MethodError) as caught:
        _tree.broadcast((0, 0), structure_of(*args), count, "batch_dims")
    first, _, third = str(caught.value).splitlines()
    assert first == f"`batch_dims=(0, 0)` does not fit a call with {phrase}."
    assert third.endswith(f"for example `batch_dims={example}`.")
