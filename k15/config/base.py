"""What every config shares: frozen, unknown keys refused, TOML below, `--dotted.key value` above."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from k15.errors import ConfigError


class StrictModel(BaseModel):
    """A frozen table of settings; an unknown key is an error.

    `plain_key` is the setting that a plain value given for the whole table means: `--model DIR` sets `model.path`.
    """

    plain_key: ClassVar[str] = "path"

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
    )


Config = TypeVar("Config", bound=StrictModel)


def load_config(schema: type[Config], recipe: Path | None, flags: Sequence[str] = ()) -> Config:
    """The config of a run: defaults, then the TOML file, then `--dotted.key value` flags.

    A plain value given for a table sets its `plain_key`, so `--model DIR` works. A switch needs no
    value, and `none` is None, which TOML cannot write.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, or a value breaks its rule.
    """
    tree = _read_toml(recipe) if recipe is not None else {}
    for key, text in _parse_flags(flags, schema):
        _assign(tree, key.split("."), text, schema)
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, schema, recipe)) from None


def config_keys(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Every dotted key of a schema with its default and its description, in order."""
    for name, field in schema.model_fields.items():
        table = _table(field.annotation)
        if table is not None:  # also of a table that may be left out
            yield from config_keys(table, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else field.get_default(call_default_factory=True)
            yield f"{prefix}{name}", default, field.description or ""


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the recipe {path}: {error.strerror}. Give the path of a TOML file."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None


def _parse_flags(flags: Sequence[str], schema: type[BaseModel]) -> Iterator[tuple[str, str]]:
    queue = list(flags)
    while queue:
        flag = queue.pop(0)
        if not flag.startswith("--"):
            raise ConfigError(
                f"a setting starts with two dashes, as in --algorithm.tau 0.1; got {flag!r}."
            )
        key, equals, text = flag[2:].partition("=")
        key = key.replace("-", "_")
        if not equals:
            is_last = not queue or queue[0].startswith("--")
            if is_last and _annotation(schema, key.split(".")) is bool:
                text = "true"
            elif queue:
                text = queue.pop(0)
            else:
                raise ConfigError(f"--{key} needs a value, as in --{key} VALUE.")
        yield key, text


def _value(text: str, annotation: Any) -> Any:
    """A flag's text as a TOML value; what is none, or belongs to a text setting, stays text."""
    kinds = (annotation, *get_args(annotation))
    if text == "none" and type(None) in kinds:
        return None
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    is_text = (
        bool({str, Path} & {*kinds}) and get_origin(annotation) is not tuple
    )  # a list of texts is a list
    return value if isinstance(value, str) or not is_text else text


def _assign(tree: dict[str, Any], keys: list[str], text: str, schema: type[BaseModel]) -> None:
    """Put a flag's value into the tree, replacing what stands there."""
    annotation = _annotation(schema, keys)
    table = _table(annotation)
    plain = _plain_key(table)
    if plain is not None and not text.lstrip().startswith("{"):
        keys, annotation = [*keys, plain], _annotation(table, [plain])
    for depth, key in enumerate(keys[:-1], start=1):
        child = tree.setdefault(key, {})
        if isinstance(child, list):
            above = ".".join(keys[:depth])
            raise ConfigError(
                f"--{'.'.join(keys)} reaches into the list {above}, and a flag gives a list as a whole. "
                f"Write it out, as in --{above} '[...]', or change the recipe."
            )
        if not isinstance(child, dict):
            outer = _plain_key(_table(_annotation(schema, keys[:depth])))
            child = tree[key] = {outer or StrictModel.plain_key: child}
        tree = child
    tree[keys[-1]] = _value(text, annotation)


def _plain_key(table: type[BaseModel] | None) -> str | None:
    """The key that a plain value for this table sets; None if it has none."""
    if table is None or not issubclass(table, StrictModel) or table.plain_key not in table.model_fields:
        return None
    return table.plain_key


def _annotation(schema: type[BaseModel] | None, keys: Sequence[str]) -> Any:
    """The type of the setting behind a dotted key; None if there is none."""
    annotation = None
    for key in keys:
        field = schema.model_fields.get(key) if schema is not None else None
        annotation = field.annotation if field is not None else None
        schema = _table(annotation)
    return annotation


def _table(annotation: Any) -> type[BaseModel] | None:
    """The model behind an annotation `Table` or `Table | None`; else None."""
    is_container = get_origin(annotation) in (list, tuple, dict)
    candidates = [] if is_container else [annotation, *get_args(annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _explain(error: ValidationError, schema: type[BaseModel], recipe: Path | None) -> str:
    known = {key: description for key, _, description in config_keys(schema)}
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "the config"
        if problem["type"] == "extra_forbidden":
            close = difflib.get_close_matches(where, known, n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]}?" if close else " See --help for all keys."
            lines.append(f"{where}: unknown key.{hint}")
        else:
            shown = "" if isinstance(problem["input"], Mapping) else f"; got {problem['input']!r}"
            cure = f". {' '.join(known[where].split())}" if known.get(where) else ""
            lines.append(f"{where}: {problem['msg'].removeprefix('Value error, ')}{shown}{cure}")
    source = f" in {recipe}" if recipe else ""
    return f"the configuration{source} is wrong:\n  " + "\n  ".join(lines)


def dump_config(config: StrictModel) -> str:
    """The resolved config as JSON text, as it is saved with the run."""
    return json.dumps(config.model_dump(mode="json"), indent=2) + "\n"
