"""What every filter's test needs: the shipped filter by name, asked about one record."""

import pytest

from distillgen.project import Project
from distillgen.record import Record


@pytest.fixture
def reason(tmp_path):
    """The reason for which a shipped filter drops a record of these fields, or None."""

    def ask(name, options, **fields):
        made = Project(tmp_path).filter(name)(**options)
        return made.decide(made.measure([Record.read(fields, "")])[0])

    return ask
