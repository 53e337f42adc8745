"""The service's OpenAPI document."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from k15 import __version__
from k15.sandbox.base import COMPILE_LIMITS, Comparison, Limits, RunVerdict
from k15.sandbox.languages import LANGUAGES

_TYPES = {"int": "integer", "float": "number", "bool": "boolean", "str": "string"}
_TEXT: dict[str, Any] = {"type": "string"}
_NUMBER: dict[str, Any] = {"type": "number"}


def document() -> dict[str, Any]:
    """What `/openapi.json` answers."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "k15 sandbox", "version": __version__},
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
        "paths": {
            "/v1/jobs": {
                "post": _operation("Run a program against its tests", "Job", "JobResult"),
            },
            "/run_code": {
                "post": _operation(
                    "Run a program once (SandboxFusion's API)", "RunCode", "RunCodeReply"
                ),
            },
            "/healthz": {
                "get": {
                    "summary": "Whether the service takes work",
                    "security": [],
                    "responses": {"200": {"description": "it does"}},
                }
            },
            "/openapi.json": {
                "get": {"summary": "This document", "responses": {"200": {"description": "it"}}}
            },
        },
    }


def _operation(summary: str, request: str, reply: str) -> dict[str, Any]:
    errors = {
        "400": "the request makes no sense; the answer says why",
        "401": "the token is missing or wrong",
        "403": "the request comes from a web page",
        "413": "the body is too large",
        "503": "all slots are taken and the queue is full; try again after Retry-After seconds",
    }
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": _content(request)},
        "responses": {
            "200": {"description": "what became of it", "content": _content(reply)},
            **{
                status: {"description": text, "content": _content("Error")}
                for status, text in errors.items()
            },
        },
    }


def _content(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _schemas() -> dict[str, Any]:
    program = {
        "language": {"enum": sorted(LANGUAGES)},
        "code": _TEXT,
        "files": {"type": "object", "additionalProperties": _TEXT},
    }
    tests = {
        "oneOf": [
            _object({"stdin": _TEXT, "expected": {"type": ["string", "null"]}}, []),
            _object({"args": {"type": "array"}, "expected": {}}, ["args", "expected"]),
            _object({"assert": _TEXT}, ["assert"]),
        ]
    }
    run = {
        "verdict": {"enum": [verdict.value for verdict in RunVerdict]},
        "reason": _TEXT,
        "stdout": _TEXT,
        "stderr": _TEXT,
        "cpu_seconds": _NUMBER,
        "wall_seconds": _NUMBER,
        "memory_bytes": {"type": "integer"},
        "exit_code": {"type": ["integer", "null"]},
        "signal": {"type": ["integer", "null"]},
    }
    command = _object(
        {
            "status": {"enum": ["Finished", "Error", "TimeLimitExceeded"]},
            "execution_time": {"type": ["number", "null"]},
            "return_code": {"type": ["integer", "null"]},
            "stdout": {"type": ["string", "null"]},
            "stderr": {"type": ["string", "null"]},
        },
        ["status"],
    )
    return {
        "Error": _object({"error": _TEXT}, ["error"]),
        "Job": _object(
            {
                "id": {},
                **program,
                "tests": {"type": "array", "minItems": 1, "items": tests},
                "entry_point": {"type": ["string", "null"]},
                "limits": _record(Limits()),
                "compile_limits": _record(COMPILE_LIMITS),
                "comparison": _record(Comparison()),
                "checker": _object(program, ["language", "code"]),
                "stop_at_first_failure": {"type": "boolean", "default": False},
            },
            ["language", "code", "tests"],
        ),
        "JobResult": _object(
            {
                "id": {},
                "verdict": run["verdict"],
                "correct": {"type": ["boolean", "null"], "description": "null: our fault"},
                "reason": _TEXT,
                "seconds": _NUMBER,
                "tests": {"type": "array", "items": _object(run, ["verdict"])},
                "compilation": _object(run, ["verdict"]),
            },
            ["verdict", "correct", "reason", "seconds", "tests"],
        ),
        "RunCode": _object(
            {
                "language": _TEXT,
                "code": _TEXT,
                "stdin": {"type": ["string", "null"]},
                "run_timeout": {"type": "number", "default": 10},
                "compile_timeout": {"type": "number", "default": 10},
                "memory_limit_MB": {"type": "integer", "default": -1},
                "files": {
                    "type": "object",
                    "additionalProperties": {"type": ["string", "null"], "contentEncoding": "base64"},
                },
            },
            ["language", "code"],
        ),
        "RunCodeReply": _object(
            {
                "status": {"enum": ["Success", "Failed", "SandboxError"]},
                "message": _TEXT,
                "compile_result": {"anyOf": [command, {"type": "null"}]},
                "run_result": {"anyOf": [command, {"type": "null"}]},
                "files": {"type": "object"},
            },
            ["status", "message"],
        ),
    }


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def _record(default: Limits | Comparison) -> dict[str, Any]:
    """The schema of a record, with its defaults."""
    properties = {}
    for field in fields(default):
        value = getattr(default, field.name)
        kinds = [kind for name, kind in _TYPES.items() if name in str(field.type)]
        kind: Any = kinds[0] if kinds else "string"
        properties[field.name] = {
            "type": [kind, "null"] if "None" in str(field.type) else kind,
            "default": value,
        }
    return {"type": "object", "properties": properties, "additionalProperties": False}
