"""A cap counts what an earlier run left at the endpoint: lines of batches and responses in the background."""

import json
import os
import signal
import sqlite3
import sys
import time
from contextlib import closing

import pytest

import distillgen
from distillgen.errors import BudgetStop, DistillgenError
from distillgen.inference.ledger_files import merge, salvage
from tests.background_endpoint import BackgroundEndpoint
from tests.batch_endpoint import BatchEndpoint
from tests.command_process import ForkedCommand

PRICE = ", max_tokens: 50, price: {input: 1000, output: 1000}"
ROWS = 6
ANSWER_USD = 0.015  # 10 tokens of input and 5 of output


class Batches:
    mode = ", mode: batch, gather_s: 0.25, poll_s: 0.05"

    def __init__(self):
        self.endpoint = BatchEndpoint()

    def hold(self):
        self.endpoint.held = True

    def release(self):
        self.endpoint.held = False

    def is_waited_for(self):
        return self.endpoint.steps.count("retrieve") >= 2

    def asked(self):
        return self.endpoint.steps.count("upload")


class Responses:
    mode = ", mode: background, poll_s: 0.05"

    def __init__(self):
        self.endpoint = BackgroundEndpoint(latency_s=60)

    def hold(self):
        pass

    def release(self):
        self.endpoint.end_now()

    def is_waited_for(self):
        return self.endpoint.looks.total() >= 2 * ROWS

    def asked(self):
        return self.endpoint.posts


def pipeline(project, url, mode, word="", rows=ROWS):
    path = project.ask_pipeline(url, rows, model=mode + PRICE)
    path.write_text(path.read_text().replace('template: "', f'template: "{word}'))


def run(project, cap):
    return distillgen.run("ask", out=project.path / "runs/ask", max_cost_usd=cap)


def left_at_the_endpoint(project, service, how):
    """Run until all requests are at the endpoint, and end the process. Return the most that they can cost."""
    service.hold()
    command = [sys.executable, "-m", "distillgen", "run", "ask", "--max-cost-usd", "9"]
    process = ForkedCommand(command, project.path, project.env(), text=True, start_new_session=True)
    while not service.is_waited_for() and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, how)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGKILL), errors
    left = promises(project.path / "runs/ledger.sqlite3")
    assert len(left) == ROWS
    return sum(cost_usd for *_, cost_usd in left)


def totals(project):
    return json.loads((project.path / "runs/ask/usage.json").read_text())["totals"]


def promises(ledger):
    with closing(sqlite3.connect(ledger)) as connection:
        return connection.execute("SELECT * FROM promises ORDER BY key").fetchall()


def merged_and_salvaged(project):
    other = project.path / "other.sqlite3"
    merge(other, [project.path / "runs/ledger.sqlite3"])
    salvage(other)
    return promises(other)


@pytest.mark.parametrize(
    "kind, how", [(Batches, signal.SIGINT), (Batches, signal.SIGKILL), (Responses, signal.SIGKILL)]
)
def test_requests_that_nobody_repeats_count_and_those_that_are_repeated_count_once(project, kind, how):
    service, ledger = kind(), project.path / "runs/ledger.sqlite3"
    with service.endpoint as endpoint:
        pipeline(project, endpoint.url, kind.mode)
        cap, asked = left_at_the_endpoint(project, service, how), service.asked()
        assert cap > ROWS * 0.05 and merged_and_salvaged(project) == promises(ledger)
        service.release()
        pipeline(project, endpoint.url, kind.mode, word="Now: ")
        said = rf"\$0.0000 is spent, answers that an earlier run left at the endpoint may cost \${cap:.4f} "
        with pytest.raises(BudgetStop, match=said):
            run(project, cap + 0.001)
        assert service.asked() == asked, "more was asked than the cap pays for"
        pipeline(project, endpoint.url, kind.mode, rows=ROWS + 1)
        assert run(project, cap).state["kept"] == ROWS + 1, (
            "what came was cheaper, and left money for one more"
        )
        assert service.asked() == asked + 1 and not promises(ledger)
        assert totals(project)["cost_usd"] == pytest.approx((ROWS + 1) * ANSWER_USD)
        pipeline(project, endpoint.url, kind.mode, word="Now: ")
        assert run(project, cap + (ROWS + 1) * ANSWER_USD).state["kept"] == ROWS


def test_a_batch_that_was_not_taken_counts_for_nothing(project):
    with BatchEndpoint(fate=lambda number: "completed" if number else "failed") as endpoint:
        pipeline(project, endpoint.url, Batches.mode)
        with pytest.raises(DistillgenError, match="None of it was asked"):
            run(project, 1)
        pipeline(project, endpoint.url, Batches.mode, word="?")
        assert run(project, 1).state["kept"] == ROWS and not promises(project.path / "runs/ledger.sqlite3")


def test_lines_that_were_not_answered_count_for_nothing(project):
    """The first batch expires with half of its answers."""
    with BatchEndpoint(fate=lambda number: "completed" if number else "expired") as endpoint:
        pipeline(project, endpoint.url, Batches.mode)
        assert run(project, 1).state["kept"] == ROWS and sorted(endpoint.lines.values()) == [1] * 3 + [2] * 3
    assert not promises(project.path / "runs/ledger.sqlite3")
