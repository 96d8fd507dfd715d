"""module: a torch module that a function of the project builds."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.extras import need
from distillgen.networks.body import Body, Sizes
from distillgen.project import Project, imported, load_function


class Module(Body):
    """A torch module of the project. The function gets the sizes and the options of `with`.

    `forward` takes an array [rows, …] in the shape of the one input, or all inputs flat, side by side. It
    returns features [rows, width], and the module has an attribute `width`. With an attribute `token_width`,
    it returns a pair: features, and tokens [rows, tokens, token_width].
    """

    function: str = Field(pattern=r"\.py:\w+$", description="FILE.py:FUNCTION, inside the project")
    with_: dict[str, Any] = Field(default_factory=dict, alias="with", description="options of the function")

    def check(self, project: Project) -> None:
        """Raise ConfigError if the function is missing, its file is broken, or it takes no such options."""
        need("student body 'module'", "torch")
        function, _ = load_function(self.function, project.root)
        try:
            signature(function).bind(None, **self.with_)
        except TypeError as error:
            raise ConfigError(f"student body 'module': {self.function}(sizes, …): {error}") from error

    def files(self, project: Project) -> dict[str, Path]:
        """Return the function's file, and the project files that it imports."""
        _, file = load_function(self.function, project.root)
        name = self.function.rpartition(":")[0]
        return {name: file, **{f"module {module}": path for module, path in imported(file).items()}}

    def tokens(self, project: Project) -> None:
        """Return nothing: only the training knows their number."""

    def module(self, sizes: Sizes, networks: Mapping[str, Any]) -> Any:
        """Return what the function builds. Raise ConfigError if that is no module."""
        from torch import nn

        function, _ = load_function(self.function, sizes.project.root)
        module = function(sizes, **self.with_)
        if not isinstance(module, nn.Module) or not isinstance(getattr(module, "width", None), int):
            raise ConfigError(
                f"student body 'module': {self.function} must return a torch module with an attribute "
                "`width`: the number of features of a row"
            )
        return module
