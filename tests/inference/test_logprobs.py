"""Log-probabilities: stored in binary, replayed as other answers are, and requested only from models that
have them.
"""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import distillgen
from distillgen.errors import ConfigError
from distillgen.inference.ledger import Ledger
from distillgen.inference.logprobs import pack, unpack
from tests.endpoint import Endpoint, completion

texts = st.text(max_size=6)
numbers = st.floats(-100, 0, width=32)
tokens = st.lists(
    st.tuples(
        texts,
        st.none() | numbers,
        st.lists(st.tuples(texts, st.floats(-100, 0, width=16)).map(list), max_size=5),
    ).map(list),
    max_size=8,
)


@given(tokens, st.lists(st.floats(-10, 10, width=32), max_size=4))
def test_what_is_packed_comes_back(logprobs, embedding):
    assert unpack(pack(logprobs, embedding)) == (logprobs, embedding)


def test_packed_numbers_keep_their_digits_and_size():
    logprobs = [
        [f"t{i % 50}", -1.23456789 * i, [[f"t{j}", -7.654321 - j] for j in range(5)]] for i in range(1000)
    ]
    blob = pack(logprobs, [])
    (back, _) = unpack(blob)
    assert all(math.isclose(a[1], b[1], rel_tol=1e-6) for a, b in zip(logprobs, back, strict=True))
    assert all(
        math.isclose(x[1], y[1], rel_tol=1e-3)
        for a, b in zip(logprobs, back, strict=True)
        for x, y in zip(a[2], b[2], strict=True)
    )
    assert len(blob) < 30 * len(logprobs) < len(json.dumps(logprobs)) / 4


def test_sampled_logprobs_are_kept_in_binary_and_replayed_alike(project):
    def answer(body, times):
        content = [
            {
                "token": t,
                "logprob": -0.1234567,
                "top_logprobs": [{"token": t, "logprob": -0.1234567}, {"token": "no", "logprob": -3.3}],
            }
            for t in ("an", "swer")
        ]
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"content": "answer"},
            "logprobs": {"content": content},
        }
        return completion(body, choices=[choice])

    with Endpoint(answer) as endpoint:
        project.ask_pipeline(endpoint.url, 3, stage=", logprobs: 2")
        project.cli("run", "ask")
        first = (project.path / "runs/ask/corpus.jsonl").read_bytes()
        (project.path / "runs/ask/corpus.jsonl").unlink()  # carried out again from the ledger
        project.cli("run", "ask")
        assert len(endpoint.bodies) == 3 and (project.path / "runs/ask/corpus.jsonl").read_bytes() == first
    row = project.read("runs/ask/corpus.jsonl")[0]
    assert row["meta"]["scores"]["generate.logprob"] == pytest.approx(-0.2469134, rel=1e-6)
    ledger = Ledger(project.path / "runs/ledger.sqlite3", read_only=True)
    (status, text, blob), *_ = ledger.find([bytes.fromhex(row["meta"]["made"][0]["key"])]).values()
    ledger.close_now()
    assert b"logprob" not in text and unpack(blob)[0][1] == [
        "swer",
        pytest.approx(-0.1234567),
        [["swer", pytest.approx(-0.1234567, rel=1e-3)], ["no", pytest.approx(-3.3, rel=1e-3)]],
    ]


SCORED = """version: 1
models:
  teacher: {{provider: openai, model: m, base_url: "{url}", server: {server}}}
stages:
  - source: {{path: data/seeds.jsonl}}
  - score: {{model: teacher, context: "{{{{ q }}}}", target: "{{{{ a }}}}"}}
"""


def vllm(body, times):
    """What vLLM's server says of a prompt: its template's tokens, the question's, and the answer's."""
    said = body["messages"][-1]["content"]
    prompt = ["<user>", "q", "<assistant>", *said.split(" ")]
    prompt = [*prompt[:3], *(word if i == 0 else f" {word}" for i, word in enumerate(prompt[3:]))]
    given = [
        None,
        *(
            {
                "7": {"logprob": -len(t) / 2, "rank": 1, "decoded_token": t},
                "8": {"logprob": -9.0, "rank": 2, "decoded_token": "x"},
            }
            for t in prompt[1:]
        ),
    ]
    return completion(body, prompt_logprobs=given)


def test_given_text_is_scored_after_its_context(project):
    project.rows("data/seeds.jsonl", [{"q": "How?", "a": "So it is."}, {"q": "Why?", "a": "No."}])
    with Endpoint(vllm) as endpoint:
        project.write("pipelines/s.yaml", SCORED.format(url=endpoint.url, server="vllm"))
        project.cli("run", "s")
        assert endpoint.bodies[0]["messages"] == [
            {"role": "user", "content": "How?"},
            {"role": "assistant", "content": "So it is."},
        ]
        assert endpoint.bodies[0]["continue_final_message"] is True and endpoint.bodies[0]["max_tokens"] == 1
        project.cli("run", "s", "-o", "runs/t", "--ledger", "runs/ledger.sqlite3")
        assert len(endpoint.bodies) == 2
    first, second = project.read("runs/s/corpus.jsonl")
    assert first["meta"]["scores"] == {"score.logprob": -(2 + 3 + 4) / 2, "score.mean_logprob": -1.5}
    assert second["meta"]["scores"]["score.logprob"] == -1.5
    assert [r["meta"]["scores"] for r in project.read("runs/t/corpus.jsonl")] == [
        first["meta"]["scores"],
        second["meta"]["scores"],
    ]
    told = json.loads(project.cli("show", "s", "--id", first["meta"]["id"], "--json").stdout)
    assert told["answers"][first["meta"]["made"][0]["key"]]["request"]["target"] == "So it is."


def test_check_names_teachers_that_give_a_missing_signal(project):
    project.rows("data/seeds.jsonl", [{"q": "How?", "a": "So."}])
    with Endpoint() as endpoint:
        path = project.write("pipelines/s.yaml", SCORED.format(url=endpoint.url, server="openai"))
        told = project.cli("check", "s", check=2).stderr
        assert (
            "pipelines/s.yaml:6" in told
            and "cannot do score; providers that can: vllm, transformers, or openai with server: vllm" in told
        )
        path.write_text(
            path.read_text().replace(
                "stages:",
                f'  other: {{provider: openai, model: m, base_url: "{endpoint.url}", server: vllm}}\nstages:',
            )
        )
        assert "models that can: other" in project.cli("check", "s", check=2).stderr
        assert not endpoint.bodies


def test_an_endpoint_without_prompt_logprobs_is_named(project):
    project.rows("data/seeds.jsonl", [{"q": "How?", "a": "So."}])
    with Endpoint() as endpoint:
        project.write("pipelines/s.yaml", SCORED.format(url=endpoint.url, server="vllm"))
        assert "1 answer" in project.cli("run", "s", check=3).stderr
    assert "no prompt_logprobs" in project.read("runs/s/dropped.jsonl")[0]["meta"]["dropped"]["reason"]


def test_embeddings_stay_in_the_ledger(project):
    def answer(body, times):
        return {
            "model": "e",
            "data": [{"embedding": [0.25, float(len(body["input"]))]}],
            "usage": {"prompt_tokens": 3},
        }

    project.rows("data/seeds.jsonl", [{"a": "So."}, {"a": "Not so."}])
    with Endpoint(answer) as endpoint:
        made = {
            "version": 1,
            "models": {"e": {"provider": "openai", "model": "e", "base_url": endpoint.url}},
            "stages": [
                {"source": {"path": "data/seeds.jsonl"}},
                {"embed": {"model": "e", "template": "{{ a }}"}},
            ],
        }
        with pytest.raises(ConfigError, match="'template' needs the field 'b'"):
            distillgen.load(made, ["embed.template='{{ b }}'"])
        run = distillgen.run(made, out="runs/e")
        assert run.state["totals"]["input_tokens"] == 6
        rows = project.read("runs/e/corpus.jsonl")
        ledger = Ledger(project.path / "runs/ledger.sqlite3", read_only=True)
        found = ledger.find([bytes.fromhex(row["meta"]["made"][0]["key"]) for row in rows])
        ledger.close_now()
    assert [unpack(blob)[1] for _, _, blob in found.values()] == [[0.25, 3.0], [0.25, 7.0]]


def test_signals_are_exported_as_columns_with_teacher_tokenizer_and_k(project):
    import pyarrow.parquet as parquet

    project.rows("data/seeds.jsonl", [{"q": "How?", "a": "So it is."}, {"q": "Why?", "a": "No."}])
    project.write("data/tokenizer.json", "{}")
    with Endpoint(vllm) as endpoint:
        text = SCORED.format(url=endpoint.url, server="vllm").replace(
            "server: vllm", "server: vllm, tokenizer: data/tokenizer.json"
        )
        project.write("pipelines/s.yaml", text)
        project.cli("run", "s", "--ledger", "elsewhere.sqlite3")
    assert "2 rows in" in project.cli("export", "s", "--signals", "-o", "s.parquet").stdout
    rows = parquet.read_table(project.path / "s.parquet").to_pylist()
    corpus = project.read("runs/s/corpus.jsonl")
    assert [row["id"] for row in rows] == [row["meta"]["id"] for row in corpus]
    assert (
        rows[0]["tokens"] == ["So", " it", " is."]
        and rows[0]["logprobs"] == [-1.0, -1.5, -2.0]
        and rows[0]["top_k"] == 1
    )
    assert (
        rows[0]["top_tokens"] == [["x"]] * 3
        and rows[0]["top_logprobs"] == [[-9.0]] * 3
        and rows[0]["embedding"] == []
    )
    assert (rows[0]["stage"], rows[0]["teacher"]) == ("score", "m") and rows[0]["tokenizer"].startswith(
        "44136fa355b3678a"
    )
    assert "such as s.parquet" in project.cli("export", "s", "--signals", "-o", "s.csv", check=2).stderr
