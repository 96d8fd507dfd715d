"""What every filter's test needs: the shipped filter by name, asked about one record."""

import inspect

import pytest

from distillgen.inference.request import Completion
from distillgen.plugins import filter_factory
from distillgen.project import Project
from distillgen.prompting.output_form import Unparsable
from distillgen.record import Record


@pytest.fixture
def reason(tmp_path):
    """The reason for which a shipped filter drops a record of these fields, or None; `answers` are what its
    models say.

    Scores that the record has from earlier stages stand where a written row has them: {"meta": {"scores":
    {…}}}.
    """

    def ask(name, options, fields, answers=()):
        project = Project(tmp_path)
        factory = filter_factory(name, project)
        made = factory(
            **options, **({"project": project} if "project" in inspect.signature(factory).parameters else {})
        )
        record = Record.read(fields, "").scored(fields.get("meta", {}).get("scores", {}))
        said = ()
        if made.asks:
            given = iter(answers)
            said = ([[[Completion(text=next(given, ""))] for _ in made.asks(record)]],)
        try:
            return made.decide(made.measure([record], *said)[0])
        except Unparsable as error:
            assert made.asks
            return f"not judged: {error}"

    return ask
