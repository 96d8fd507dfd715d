"""Synthetic data for black-box LLM distillation: every paid answer kept, every dropped record explained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distillgen.errors import ConfigError as ConfigError
    from distillgen.errors import DistillgenError as DistillgenError
    from distillgen.flow.filter import Filter as Filter
    from distillgen.flow.ordered import in_order as in_order
    from distillgen.flow.stage import CheckContext as CheckContext
    from distillgen.flow.stage import Chunks as Chunks
    from distillgen.flow.stage import Estimate as Estimate
    from distillgen.flow.stage import Job as Job
    from distillgen.flow.stage import Stage as Stage
    from distillgen.inference.endpoint import Endpoint as Endpoint
    from distillgen.inference.faults import Rejected as Rejected
    from distillgen.inference.faults import Retryable as Retryable
    from distillgen.inference.outcome import Outcome as Outcome
    from distillgen.inference.request import Completion as Completion
    from distillgen.inference.request import Request as Request
    from distillgen.inference.spec import Spec as Spec
    from distillgen.inference.teacher import Teacher as Teacher
    from distillgen.networks.body import Body as Body
    from distillgen.option_types import FieldName as FieldName
    from distillgen.option_types import FileName as FileName
    from distillgen.option_types import ModelName as ModelName
    from distillgen.option_types import NumberName as NumberName
    from distillgen.option_types import PromptName as PromptName
    from distillgen.option_types import ScriptName as ScriptName
    from distillgen.option_types import TemplateText as TemplateText
    from distillgen.pipeline.load import Pipeline as Pipeline
    from distillgen.pipeline.load import load as load
    from distillgen.project import Project as Project
    from distillgen.prompting.media import Media as Media
    from distillgen.prompting.prompt import Prompt as Prompt
    from distillgen.record import Record as Record
    from distillgen.runs.directory import Run as Run
    from distillgen.runs.from_python import run as run
    from distillgen.runs.progress import Progress as Progress
    from distillgen.runs.seeds import Seeds as Seeds
    from distillgen.training.objective import Objective as Objective
    from distillgen.training.part import Loss as Loss
    from distillgen.training.part import Weight as Weight
    from distillgen.training.rows import Unusable as Unusable

__version__ = "0.1.0"

_HOMES = {
    "Body": "networks.body",
    "CheckContext": "flow.stage",
    "Chunks": "flow.stage",
    "Completion": "inference.request",
    "ConfigError": "errors",
    "DistillgenError": "errors",
    "Endpoint": "inference.endpoint",
    "Estimate": "flow.stage",
    "FieldName": "option_types",
    "FileName": "option_types",
    "Filter": "flow.filter",
    "Job": "flow.stage",
    "Loss": "training.part",
    "Media": "prompting.media",
    "ModelName": "option_types",
    "NumberName": "option_types",
    "Objective": "training.objective",
    "Outcome": "inference.outcome",
    "Pipeline": "pipeline.load",
    "Progress": "runs.progress",
    "Project": "project",
    "Prompt": "prompting.prompt",
    "PromptName": "option_types",
    "Record": "record",
    "Rejected": "inference.faults",
    "Request": "inference.request",
    "Retryable": "inference.faults",
    "Run": "runs.directory",
    "ScriptName": "option_types",
    "Seeds": "runs.seeds",
    "Spec": "inference.spec",
    "Stage": "flow.stage",
    "Teacher": "inference.teacher",
    "TemplateText": "option_types",
    "Unusable": "training.rows",
    "Weight": "training.part",
    "in_order": "flow.ordered",
    "load": "pipeline.load",
    "run": "runs.from_python",
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


def __dir__() -> list[str]:
    """Return the public names only, for completion in an editor or a notebook."""
    return sorted([*__all__, "__version__"])
