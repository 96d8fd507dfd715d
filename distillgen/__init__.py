"""Synthetic data for black-box LLM distillation: every paid answer kept, every dropped record explained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distillgen.errors import ConfigError as ConfigError
    from distillgen.errors import DistillgenError as DistillgenError
    from distillgen.inference.teacher import Completion as Completion
    from distillgen.inference.teacher import Request as Request
    from distillgen.pipeline.load import Pipeline as Pipeline
    from distillgen.pipeline.load import load as load
    from distillgen.project import Project as Project
    from distillgen.prompting.prompt import Prompt as Prompt
    from distillgen.record import FieldName as FieldName
    from distillgen.record import FileName as FileName
    from distillgen.record import ModelName as ModelName
    from distillgen.record import PromptName as PromptName
    from distillgen.record import Record as Record
    from distillgen.record import ScriptName as ScriptName
    from distillgen.runs.directory import Run as Run
    from distillgen.runs.execute import run as run
    from distillgen.stages.filter import Filter as Filter

__version__ = "0.1.0"

_HOMES = {
    "Completion": "inference.teacher",
    "ConfigError": "errors",
    "DistillgenError": "errors",
    "FieldName": "record",
    "FileName": "record",
    "Filter": "stages.filter",
    "ModelName": "record",
    "Pipeline": "pipeline.load",
    "Project": "project",
    "Prompt": "prompting.prompt",
    "PromptName": "record",
    "Record": "record",
    "Request": "inference.teacher",
    "Run": "runs.directory",
    "ScriptName": "record",
    "load": "pipeline.load",
    "run": "runs.execute",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that `import distillgen` and `--help` stay fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'distillgen' has no attribute '{name}'")
    import importlib

    value = getattr(importlib.import_module(f"distillgen.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
