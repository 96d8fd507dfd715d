"""The types of options that name a part of a pipeline or a project, so that `check` can look for it."""

from typing import Annotated

FieldName = Annotated[str, "field"]
"""The type of an option that names a field of the record: `check` reports a field that does not exist."""

ModelName = Annotated[str, "model"]
"""The type of an option that names a model of the pipeline: `check` reports a model that does not exist."""

NumberName = Annotated[str, "number"]
"""The type of an option that names a score, or a field with a number: `check` reports a name that no earlier
stage gives, and a record without that number is dropped.
"""

TemplateText = Annotated[str, "template"]
"""The type of an option that is a template of a record: `check` reports fields and scores that do not exist.
"""

PromptName = Annotated[str, "prompt"]
FileName = Annotated[str, "file"]
ScriptName = Annotated[str, "script"]
"""The types of options that name a prompt, a data file or folder, or `file.py:function` of the project.

The content of the file is part of the run's fingerprint. A ScriptName may also be the name of a model.
"""
