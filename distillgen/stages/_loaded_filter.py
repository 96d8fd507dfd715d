"""A filter as a stage of a pipeline names it: its factory, its options and its files."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from distillgen.errors import ConfigError, DistillgenError
from distillgen.flow.filter import Entry, Filter, factory_of, option_types, options_of
from distillgen.located_yaml import Places, validate
from distillgen.option_types import FileName, ModelName, PromptName, ScriptName
from distillgen.plugins import Plugin, filter_factory, find
from distillgen.project import Project, code_sha256, imported, user_error


@dataclass(frozen=True)
class LoadedFilter:
    """A filter of a stage's list, with its factory and the checked options."""

    entry: Entry
    factory: Callable[..., Filter]
    options: Mapping[str, Any]
    plugin: Plugin | None
    """Where its file is; None for a filter that Python code hands over."""
    project: Project

    @classmethod
    def load(cls, entry: Entry, project: Project, seed: int = 0) -> LoadedFilter:
        """Load the factory and check the options; add the pipeline's seed to an option `seed`.

        Raise ConfigError.
        """
        subject, plugin = f"filter '{entry.filter}'", None
        if entry.filter in project.filters:
            factory = factory_of(entry.filter, project.filters[entry.filter])
        else:
            factory, plugin = filter_factory(entry.filter, project), find("filters", entry.filter, project)
        validated = validate(options_of(factory), entry.options, owner=subject, places=Places())
        options = dict(iter(validated))  # dict(validated) would call an option of the name `keys`
        if seed and isinstance(options.get("seed"), int):
            options["seed"] += seed
        return cls(entry, factory, options, plugin, project)

    @property
    def foreign(self) -> bool:
        """Whether it does not ship with distillgen."""
        return self.plugin is None or bool(self.plugin.files)

    def make(self) -> Filter:
        """Return a new filter, which has seen no record. Raise ConfigError."""
        subject, options = f"filter '{self.entry.filter}'", dict(self.options)
        if "project" in inspect.signature(self.factory).parameters:
            options["project"] = self.project
        try:
            new_filter = self.factory(**options)
        except ValueError as error:  # a factory's own check of its options
            raise ConfigError(f"{subject}: {error}") from error
        except DistillgenError:
            raise
        except Exception as error:
            raise user_error(error, subject) from error
        if not isinstance(new_filter, Filter):
            message = f"'{self.entry.filter}' gives {type(new_filter).__name__}, not a Filter"
            file = self.plugin.file if self.plugin else None
            raise ConfigError(f"{message}: return Filter(measure=…, decide=…)", path=file)
        if new_filter.depends_on is not None:
            code = code_sha256(self.plugin.file) if self.plugin else uuid4().hex
            new_filter = replace(new_filter, depends_on={**new_filter.depends_on, "code": code})
        return new_filter

    @cached_property
    def filter(self) -> Filter:
        """The filter for the check and the plan; a run makes its own."""
        return self.make()

    @cached_property
    def models(self) -> list[str]:
        """The pipeline's models that the filter asks."""
        return [name for _, name in self.names(ModelName)]

    @cached_property
    def _types(self) -> Mapping[str, Any]:
        return option_types(self.factory)

    def names(self, kind: Any) -> list[tuple[str, str]]:
        """Return the options whose type is a kind of name, or a list of such names, each with one name."""
        defaults = inspect.signature(self.factory).parameters
        options = [name for name, hint in self._types.items() if name != "return" and _mentions(hint, kind)]
        values = [(option, self.entry.options.get(option, defaults[option].default)) for option in options]
        return [
            (option, name)
            for option, value in values
            for name in ([value] if isinstance(value, str) else value or ())
        ]

    def files(self) -> dict[str, Path]:
        """Return the filter's file, the project files that it imports, and the files in its options."""
        files = {f"filters/{self.entry.filter}": self.plugin.file} if self.plugin else {}
        for _, name in self.names(PromptName):
            files[f"prompts/{name}"] = self.project.find("prompts", name, ".md")
        files |= {name: self.project.file(name) for _, name in self.names(FileName)}
        scripts = (name.rpartition(":")[0] for _, name in self.names(ScriptName))
        files |= {script: self.project.file(script) for script in scripts if script.endswith(".py")}
        code = [path for path in files.values() if path.suffix == ".py"]
        return files | {f"module {name}": file for path in code for name, file in imported(path).items()}


def _mentions(hint: Any, kind: Any) -> bool:
    """Return whether a type is `kind`, a list of `kind`, or an optional one of them."""
    return hint == kind or any(_mentions(part, kind) for part in getattr(hint, "__args__", ()))
