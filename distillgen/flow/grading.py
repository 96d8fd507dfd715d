"""What judges say, and how far one can rely on them."""

from __future__ import annotations

from distillgen.inference.request import Completion
from distillgen.prompting.output_form import Unparsable
from distillgen.prompting.prompt import Prompt


def grade(prompt: Prompt, completion: Completion) -> float:
    """The grade that a judge gave, from 1 to 10. Raises Unparsable where it gave none."""
    (found,) = prompt.form.parse(completion.text)
    if not 1 <= found["score"] <= 10:
        raise Unparsable(f"the grade {found['score']} is not between 1 and 10")
    return float(found["score"])
