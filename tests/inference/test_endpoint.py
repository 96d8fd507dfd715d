"""A provider is an endpoint of three members; the teacher adds the ledger, retries and the rest."""

import asyncio

import pytest

from distillgen.inference import teacher as teacher_module
from distillgen.inference.endpoint import Endpoint, Services
from distillgen.inference.faults import Rejected, Retryable, TeacherDown, TimedOut, Unreachable
from distillgen.inference.ledger import Ledger
from distillgen.inference.limits import Budget
from distillgen.inference.request import Completion, Request
from distillgen.inference.spec import Spec
from distillgen.inference.teacher import Teacher


class Echo(Endpoint):
    """The whole of a provider."""

    identity = "echo"
    faults: tuple[Exception, ...] = ()
    is_open = True
    calls = 0

    async def answer(self, request, samples, attempt):
        self.calls += 1
        if self.faults:
            fault, *self.faults = self.faults
            raise fault
        await asyncio.sleep(0)
        return [Completion(text=f"{request.prompt} {sample}", input_tokens=1) for sample in samples]

    async def close(self):
        self.is_open = False


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """ask(["a"], fault, max_retries=3) gives the endpoint, the completions of each prompt, and the usage."""
    monkeypatch.setattr(teacher_module, "_backoff", lambda state: 0.0)

    async def main(prompts, faults, samples, options):
        ledger = Ledger(tmp_path / "ledger.sqlite3")
        spec = Spec(provider="echo", model="m", **options)
        endpoint = Echo("model", spec, Services(ledger, Budget(), "run", tmp_path))
        endpoint.faults = faults
        teacher = Teacher(endpoint)
        outcomes = teacher.begin([(Request("m", prompt=prompt), samples) for prompt in prompts], stage="s")
        answers = [await outcome for outcome in outcomes]
        await teacher.close()
        usage = ledger.usage()
        await ledger.close()
        return endpoint, answers, usage

    return lambda prompts, *faults, samples=2, **options: asyncio.run(main(prompts, faults, samples, options))


def test_identical_requests_are_asked_once_and_replayed(ask):
    endpoint, answers, _ = ask(["a", "b", "a"])
    texts = [[completion.text for completion in completions] for completions in answers]
    assert texts == [["a 0", "a 1"], ["b 0", "b 1"], ["a 0", "a 1"]]
    assert endpoint.calls == 4 and not endpoint.is_open
    assert ask(["a", "b"])[0].calls == 0


def test_temporary_faults_are_retried_and_counted(ask):
    endpoint, ((first, _),), (usage,) = ask(["a"], Retryable("busy"), Retryable("busy"))
    assert first.text == "a 0" and endpoint.calls == 4
    assert usage.retries == 2 and usage.requests == 2


@pytest.mark.parametrize(
    ("faults", "calls", "status"),
    [
        ([Rejected("no")], 1, "failed"),
        ([TimedOut("late")] * 3, 2, "failed"),
        ([Retryable("busy")] * 9, 4, "failed"),
        ([Unreachable("gone")] * 2, 3, "ok"),
    ],
)
def test_how_often_each_fault_is_retried(ask, faults, calls, status):
    endpoint, ((completion,),), _ = ask(["a"], *faults, samples=1, max_retries=3)
    assert (endpoint.calls, completion.status) == (calls, status)
    assert completion.error == ("" if status == "ok" else str(faults[0]))


def test_an_endpoint_that_was_never_reached_stops_the_run(ask, caplog):
    caplog.set_level("INFO", "distillgen")
    with pytest.raises(TeacherDown, match="model 'model': gone"):
        ask(["a"], *[Unreachable("gone")] * 9, samples=1)
    assert caplog.text.count("asking again") == Unreachable.tries - 1
