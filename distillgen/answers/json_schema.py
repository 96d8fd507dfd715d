"""Validators of JSON Schema (draft 2020-12)."""

from __future__ import annotations

import re
from typing import Any

from distillgen.record import dumps


def validator(schema: dict[str, Any], subject: str = "'json_schema'") -> Any:
    """Return a validator whose references all resolve within the schema; nothing is ever fetched.

    Raise ValueError with `subject` if the schema is wrong.
    """
    from jsonschema import Draft202012Validator, SchemaError
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    registry = Registry().with_resource("", DRAFT202012.create_resource(schema))
    try:
        Draft202012Validator.check_schema(schema)
        for reference in re.findall(r'"\$ref":"([^"]*)"', dumps(schema).decode()):
            registry.resolver().lookup(reference)
    except SchemaError as error:
        raise ValueError(f"{subject} is wrong: {error.message}") from error
    except Unresolvable as error:
        raise ValueError(f"{subject} refers to {error.ref!r}, which is not in it") from error
    return Draft202012Validator(schema, registry=registry)
