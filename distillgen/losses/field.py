"""field: a weight that each record brings along, such as a judge's grade."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from distillgen.option_types import FieldName
from distillgen.training.part import Weight

if TYPE_CHECKING:
    from distillgen.training.step import Step


class FieldWeight(Weight):
    """The number in a field of the record."""

    needs: ClassVar = {"name": "number"}
    tokens = False

    name: FieldName = Field(description="the field with the number")

    def rows(self, step: Step, module: Any) -> Any:
        """Return the number of each row [rows]."""
        return step.vector(self.name).squeeze(-1)
