"""Grades that judges give."""

from __future__ import annotations

from distillgen.inference.request import Completion
from distillgen.prompting.output_form import Unparsable
from distillgen.prompting.prompt import Prompt


def grade(prompt: Prompt, completion: Completion) -> float:
    """Return the grade in a judge's answer, from 1 to 10. Raise Unparsable for another answer."""
    (fields,) = prompt.form.parse(completion.text)
    if not 1 <= fields["score"] <= 10:
        raise Unparsable(f"the grade {fields['score']} is not between 1 and 10")
    return float(fields["score"])
