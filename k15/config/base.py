"""What every config shares: frozen, unknown keys refused, TOML below, `--dotted.key value` above."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from k15.errors import ConfigError


class StrictModel(BaseModel):
    """A frozen table of settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)


Config = TypeVar("Config", bound=StrictModel)


def load_config(schema: type[Config], recipe: Path | None, flags: Sequence[str] = ()) -> Config:
    """The config of a run: defaults, then the TOML file, then `--dotted.key value` flags.

    A plain value given for a table sets that table's `path`, so `--model DIR` works.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, or a value breaks its rule.
    """
    tree = _read_toml(recipe) if recipe is not None else {}
    for key, value in _parse_flags(flags):
        _assign(tree, key.split("."), value, schema)
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, schema, recipe)) from None


def config_keys(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Every dotted key of a schema with its default and its description, in order."""
    for name, field in schema.model_fields.items():
        table = _table(field.annotation)
        if table is not None and field.annotation is table:
            yield from config_keys(table, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else field.get_default(call_default_factory=True)
            yield f"{prefix}{name}", default, field.description or ""


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {path}: {error.strerror}. Give the path of a TOML file.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None


def _parse_flags(flags: Sequence[str]) -> Iterator[tuple[str, Any]]:
    queue = list(flags)
    while queue:
        flag = queue.pop(0)
        if not flag.startswith("--"):
            raise ConfigError(f"a setting starts with two dashes, as in --algorithm.tau 0.1; got {flag!r}.")
        key, equals, text = flag[2:].partition("=")
        if not equals:
            if not queue:
                raise ConfigError(f"--{key} needs a value, as in --{key} VALUE.")
            text = queue.pop(0)
        yield key.replace("-", "_"), _value(text)


def _value(text: str) -> Any:
    """A flag's text as a TOML value; text that is none stays text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _assign(tree: dict[str, Any], keys: list[str], value: Any, schema: Any) -> None:
    head, rest = keys[0], keys[1:]
    field = schema.model_fields.get(head) if schema is not None else None
    table = _table(field.annotation) if field is not None else None
    if not rest and table is not None and "path" in table.model_fields and not isinstance(value, dict):
        rest, value = ["path"], str(value)
    if not rest:
        tree[head] = value
        return
    child = tree.setdefault(head, {})
    if not isinstance(child, dict):
        child = tree[head] = {"path": child}
    _assign(child, rest, value, table)


def _table(annotation: Any) -> type[BaseModel] | None:
    """The model behind an annotation `Table` or `Table | None`; else None."""
    candidates = [annotation, *get_args(annotation)] if get_origin(annotation) not in (list, tuple, dict) else []
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _explain(error: ValidationError, schema: type[BaseModel], recipe: Path | None) -> str:
    known = [key for key, _, _ in config_keys(schema)]
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "the config"
        if problem["type"] == "extra_forbidden":
            close = difflib.get_close_matches(where, known, n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]}?" if close else " See --help for all keys."
            lines.append(f"{where}: unknown key.{hint}")
        else:
            shown = "" if isinstance(problem["input"], Mapping) else f"; got {problem['input']!r}"
            lines.append(f"{where}: {problem['msg'].removeprefix('Value error, ')}{shown}")
    source = f" in {recipe}" if recipe else ""
    return f"the configuration{source} is wrong:\n  " + "\n  ".join(lines)


def dump_config(config: StrictModel) -> str:
    """The resolved config as JSON text, as it is saved with the run."""
    return json.dumps(config.model_dump(mode="json"), indent=2) + "\n"
