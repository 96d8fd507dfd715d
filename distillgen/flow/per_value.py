"""The option `each`: a stage that stands for several, one for each value of a field."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from distillgen.errors import ConfigError
from distillgen.flow.stage import CheckContext, Stage
from distillgen.record import text_of

OPTION = "each"
MOST = 100  # a field with more values is rather an id than a kind, and each value is a training


def for_values(stage: Stage, context: CheckContext | None = None) -> list[Stage]:
    """Return the stage of each value that `each` lists, or the stage itself if it lists none.

    With a context, `each` may also be a field alone, whose values an earlier stage knows. Raise ConfigError.
    """
    option = getattr(stage, OPTION, None)
    if isinstance(option, str) and context is not None:
        return _copies(stage, option, _values(option, context))
    if isinstance(option, Mapping) and context is None:
        ((field, values),) = option.items()
        return _copies(stage, field, values)
    return [stage]


def _values(field: str, context: CheckContext) -> Sequence[str]:
    """Return the values of a field before a run."""
    context.need(field, f"'{OPTION}'")
    values = None if context.loops else context.values(field)
    remedy = f"list those to train: {OPTION}: {{{field}: [VALUE, VALUE]}}"
    if values is None:
        raise ConfigError(f"{OPTION}: the values of '{field}' are not known before the run; {remedy}")
    if not values:
        raise ConfigError(f"{OPTION}: no training record of the source has a value of '{field}'")
    if len(values) > MOST:
        raise ConfigError(f"{OPTION}: '{field}' has {len(values)} values, more than {MOST}; {remedy}")
    return values


def _copies(stage: Stage, field: str, values: Sequence[Any]) -> list[Stage]:
    """Return a copy of the stage for each value, whose name ends with it."""
    copies, values_by_name = list[Stage](), dict[str, str]()
    for value in map(text_of, values):
        name = re.sub(r"[^\w-]+", "-", value).strip("-")
        other = values_by_name.setdefault(name.casefold(), value)  # a file system may not tell A from a
        if not name or other != value or value in [getattr(copy, OPTION)[field][0] for copy in copies]:
            reason = f"'{other}' and '{value}' give one name" if name else f"'{value}' gives no name"
            remedy = "make a field with other values by a stage format"
            raise ConfigError(f"{OPTION}: a stage is named by the value of '{field}': {reason}; {remedy}")
        copies.append(stage.model_copy(update={"name": f"{stage.name}-{name}", OPTION: {field: [value]}}))
    return copies
