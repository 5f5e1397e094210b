"""What a scorer takes from data/eval: a JSON schema, a function of the user's. Both are looked at before a model is loaded."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module, invalidate_caches
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from tasks.errors import ParamsError, one_line


def load_schema(file: str, folder: Path) -> Any:
    """The validator of a schema in `folder`, of the draft that `$schema` names, else 2020-12. It fetches nothing.

    Raises:
        ParamsError: there is none, or it is not valid, or a `$ref` leads out of it.
    """
    from jsonschema import SchemaError, validators  # type: ignore[import-untyped]
    from referencing import Registry

    path = (folder / file).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise ParamsError(f"{file}: no file in {folder}; put the schema there")
    try:
        schema = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ParamsError(f"{folder / file}: cannot be read as JSON: {shortened(error)}") from None
    if not isinstance(schema, dict):
        raise ParamsError(f"{folder / file}: found {type(schema).__name__}, wanted a JSON schema, which is an object")
    draft = str(schema.get("$schema", "https://json-schema.org/draft/2020-12/schema"))
    known = validators.validator_for({"$schema": draft}, default=None)
    if known is None:
        raise ParamsError(f"{folder / file}: its $schema is {draft}, wanted a draft of json-schema.org, or none")
    try:
        known.check_schema(schema)
    except SchemaError as error:
        raise ParamsError(f"{folder / file}: not a valid schema: {error.json_path}: {shortened(error.message)}") from None
    if unresolved := _unresolved(schema):
        raise ParamsError(f"{folder / file}: $ref to {', '.join(unresolved)} leads nowhere in it, and none is fetched; use $defs")
    return known(schema, registry=Registry())


def _unresolved(schema: dict[str, Any]) -> list[str]:
    """The references that do not lead to a part of the schema."""
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    found = []
    root: Resource[Any] = Resource.from_contents(schema, default_specification=DRAFT202012)
    waiting = [(root, Registry().resolver_with_root(root))]
    while waiting:
        resource, resolver = waiting.pop()
        contents = resource.contents
        for reference in (contents.get("$ref"), contents.get("$dynamicRef")) if isinstance(contents, dict) else ():
            try:
                _ = isinstance(reference, str) and resolver.lookup(reference)
            except (Unresolvable, ValueError):
                found.append(str(reference))
        waiting += [(part, resolver.in_subresource(part)) for part in resource.subresources()]
    return sorted(set(found))


def load_entry_point(entry_point: str, folder: Path) -> Callable[..., Any]:
    """The function of MODULE:FUNCTION, read anew from `folder` at each call, or of an installed module.

    Modules of `folder` come first while it is imported, and are gone afterwards: they neither stand in the way of a library of
    the same name, nor does a later import inside the function find them.

    Raises:
        ParamsError: no such module or function, an import that raises, something that cannot be called.
    """
    module, _, name = entry_point.partition(":")
    try:
        with _modules_of(folder):
            function = getattr(import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise ParamsError(f"{entry_point}: no module {error.name}, neither in {folder} nor installed") from None
    except (Exception, SystemExit) as error:
        raise ParamsError(f"{entry_point}: importing {module} raised {type(error).__name__}: {shortened(error)}") from error
    if not callable(function):
        found = "nothing of that name" if function is None else type(function).__name__
        raise ParamsError(f"{entry_point}: found {found}, wanted `def {name}(reply: str, doc: dict) -> float`")
    return function  # type: ignore[no-any-return]


@contextmanager
def _modules_of(folder: Path) -> Iterator[None]:
    """Meanwhile an import looks into `folder` first, and writes no bytecode there, which would be a change of the data."""
    own = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}

    def forget() -> dict[str, ModuleType]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in own}

    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, [str(folder.resolve())]) if path is None else None
        return spec if spec and spec.loader else None  # a folder without __init__.py is no package

    others, finder, writes_none = forget(), SimpleNamespace(find_spec=find_spec), sys.dont_write_bytecode
    sys.meta_path.insert(0, finder)
    sys.dont_write_bytecode = True
    invalidate_caches()
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.dont_write_bytecode = writes_none
        forget()
        sys.modules.update(others)


def shortened(error: object) -> str:
    """For a message."""
    return one_line(error)[:200]
