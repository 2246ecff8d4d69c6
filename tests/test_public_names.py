"""The public API is closed: what public functions and classes are made of is public too."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sae_guard
import sae_guard.errors

PAGE = Path(__file__).parents[1].joinpath("docs", "reference", "api.md").read_text(encoding="utf-8")
PUBLIC = {getattr(sae_guard, name) for name in sae_guard.__all__}
OWN_MODULES = {"sae_guard.errors", "sae_guard.testing"}
"""Modules that are public as they are; strategies draw objects of public classes."""


def test_each_public_name_is_listed_once() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(listed) == sorted(sae_guard.__all__)


def test_what_public_things_are_made_of_is_public() -> None:
    visited: set[Any] = set()
    waiting = [*PUBLIC]
    private: set[str] = set()
    while waiting:
        thing = waiting.pop()
        if thing in visited:
            continue
        visited.add(thing)
        if inspect.isclass(thing) and thing not in PUBLIC and thing.__module__ not in OWN_MODULES:
            private.add(f"{thing.__module__}.{thing.__qualname__}")
        waiting += parts_of(thing)
    assert len(visited) > 70
    assert not private


def test_exceptions_that_docstrings_name_are_public() -> None:
    names = {*sae_guard.__all__, *vars(sae_guard.errors), "ValueError"}
    raised = set[str]()
    for thing in PUBLIC:
        text = inspect.getdoc(thing) or ""
        section = text.partition("Raises:\n")[2].partition("\n\n")[0]
        raised |= set(re.findall(r"^ {4}(\w+):", section, re.MULTILINE))
    assert {"SetupError", "LoadError"} < raised
    assert raised <= names


def parts_of(thing: Any) -> Iterator[Any]:
    """The classes of ours that the annotations of a function or class name."""
    for annotated in (thing, *public_methods(thing)):
        for hint in typing.get_type_hints(annotated).values():
            yield from classes_in(hint)


def public_methods(thing: Any) -> Iterator[Callable[..., Any]]:
    """The methods and properties that users of a class may call."""
    for name, member in vars(thing).items() if inspect.isclass(thing) else ():
        function = member.fget if isinstance(member, property) else member
        function = getattr(function, "__func__", function)
        if inspect.isfunction(function) and (not name.startswith("_") or name == "__init__"):
            yield function


def classes_in(hint: Any) -> Iterator[Any]:
    """The classes of ours in an annotation, however deep."""
    if inspect.isclass(hint) and hint.__module__.startswith("sae_guard"):
        yield hint
    for argument in typing.get_args(hint):
        for part in argument if isinstance(argument, list) else [argument]:
            yield from classes_in(part)
