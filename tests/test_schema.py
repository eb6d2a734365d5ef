"""Strict loading: what a file says is what the program gets, or one message that says why not."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanflow import schema
from sanflow.errors import ConfigError


@dataclass(frozen=True)
class Leaf:
    """A small table with a rule of its own."""

    name: str
    ratio: float = 0.5
    kind: Literal["a", "b"] = "a"
    stride: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        if self.ratio < 0:
            raise ValueError(f"ratio {self.ratio} must not be negative")


@dataclass(frozen=True)
class Tree:
    """Every kind of field the project uses."""

    count: int
    on: bool = False
    pair: tuple[int, int] = (1, 2)
    leaves: tuple[Leaf, ...] = ()
    table: dict[str, Leaf] = field(default_factory=dict)
    maybe: Leaf | None = None
    text: str | None = None


leaves = st.builds(
    Leaf,
    name=st.text(),
    ratio=st.floats(0, 1e300, allow_nan=False),
    kind=st.sampled_from(["a", "b"]),
)
trees = st.builds(
    Tree,
    count=st.integers(),
    on=st.booleans(),
    pair=st.tuples(st.integers(), st.integers()),
    leaves=st.lists(leaves, max_size=3).map(tuple),
    table=st.dictionaries(st.text(), leaves, max_size=3),
    maybe=st.none() | leaves,
    text=st.none() | st.text(),
)


@given(trees)
def test_a_tree_survives_json(tree: Tree) -> None:
    assert schema.load(Tree, json.loads(json.dumps(schema.dump(tree)))) == tree


GOOD: dict[str, Any] = schema.dump(
    Tree(
        count=3,
        leaves=(Leaf("x"), Leaf("y")),
        table={"k": Leaf("z")},
        maybe=Leaf("m"),
        text="t",
    )
)


def test_a_whole_number_serves_as_a_float_and_nothing_else_is_converted() -> None:
    leaf = schema.load(Leaf, {"name": "x", "ratio": 2})
    assert leaf.ratio == 2.0
    assert type(leaf.ratio) is float


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 3.0}, r"config\.count: expected int, got float 3\.0"),
        ({"count": "3"}, r"config\.count: expected int, got str '3'"),
        ({"count": True}, r"config\.count: expected int, got bool True"),
        ({"count": None}, r"config\.count: expected int, got nothing"),
        ({"on": 1}, r"config\.on: expected bool, got int 1"),
        ({"pair": [1, 2, 3]}, r"config\.pair: expected 2 values, got 3"),
        ({"pair": [1, "b"]}, r"config\.pair\[1\]: expected int"),
        ({"pair": 7}, r"config\.pair: expected a list"),
        (
            {"leaves": [{"name": "x"}, {"nam": "y"}]},
            r"leaves\[1\]: unknown field 'nam'; did you .*'name'",
        ),
        ({"leaves": [{}]}, r"config\.leaves\[0\]: missing field 'name'"),
        (
            {"table": {"k": {"name": "x", "kind": "c"}}},
            r"table\.k\.kind: 'c' is not one of 'a', 'b'",
        ),
        (
            {"maybe": {"name": "x", "stride": 1.0}},
            r"config\.maybe\.stride: 1\.0 is not one of 1, 2",
        ),
        ({"maybe": {"name": "x", "stride": True}}, r"True is not one of 1, 2"),
        ({"table": [1]}, r"config\.table: expected a table"),
        (
            {"maybe": {"name": "x", "ratio": -1.0}},
            r"config\.maybe: ratio -1\.0 must not be negative",
        ),
        ({"maybe": {"name": "x", "ratio": float("nan")}}, r"ratio: nan is not a finite number"),
        ({"maybe": {"name": "x", "ratio": float("inf")}}, r"ratio: inf is not a finite number"),
        ({"maybe": {"name": "x", "ratio": 10**400}}, r"ratio: a whole number of this size"),
        ({"zzzzzzzz": 1}, r"unknown field 'zzzzzzzz'; known: count, on, pair"),
    ],
)
def test_a_wrong_field_is_named_with_its_place(change: dict[str, Any], message: str) -> None:
    schema.load(Tree, GOOD)
    with pytest.raises(ConfigError, match=message):
        schema.load(Tree, {**GOOD, **change})


@pytest.mark.parametrize("value", [None, [], 3, "text", True])
def test_only_a_table_makes_a_dataclass(value: object) -> None:
    with pytest.raises(ConfigError, match="here: expected a table"):
        schema.load(Tree, value, "here")


@given(st.sampled_from([f.name for f in fields(Tree)]), st.characters())
def test_every_misspelling_is_refused(name: str, extra: str) -> None:
    """A field that is nearly right must not be ignored: its value would silently not count."""
    wrong = name + extra
    with pytest.raises(ConfigError, match="unknown field"):
        schema.load(Tree, {**GOOD, wrong: GOOD[name]})


@dataclass(frozen=True)
class Round:
    """One of two shapes."""

    shape: Literal["circle", "ellipse"] = "circle"
    radius: int = 1


@dataclass(frozen=True)
class Square:
    """The other."""

    shape: Literal["square"] = "square"
    side: int = 1


@dataclass(frozen=True)
class Drawing:
    """A field that is one of several tables."""

    item: Round | Square = field(default_factory=Round)


@pytest.mark.parametrize(
    "drawing", [Drawing(Round("ellipse", 2)), Drawing(Square(side=3)), Drawing()]
)
def test_a_union_is_told_apart_by_its_first_field(drawing: Drawing) -> None:
    assert schema.load(Drawing, schema.dump(drawing)) == drawing


def test_the_first_of_a_union_is_meant_where_nothing_is_said() -> None:
    assert schema.load(Drawing, {"item": {"radius": 4}}) == Drawing(Round(radius=4))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"shape": "sqare"}, "config.item.shape: unknown name 'sqare'; did you mean 'square'"),
        ({"shape": 1}, "config.item.shape: unknown name 1; known: circle, ellipse, square"),
        ({"shape": "square", "radius": 1}, "config.item: unknown field 'radius'"),
        (3, "config.item: expected a table"),
    ],
)
def test_what_no_member_of_a_union_takes_is_refused(item: object, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        schema.load(Drawing, {"item": item})
