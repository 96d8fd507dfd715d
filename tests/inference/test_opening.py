"""The opening of a user's turn is what the model's own chat template writes there."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web

from distillgen.inference.opening import USER_TURN, opening, text_start
from distillgen.training.chat_template import rendered
from tests.endpoint import Endpoint, completion

TEMPLATES = Path(__file__).parent / "chat_templates"
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]

OPENINGS = {
    "qwen": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
    "llama3": "<s><|start_header_id|>user<|end_header_id|>\n\n",
    "mistral": "<s>[INST] ",
    "gemma": "<s><start_of_turn>user\n",
}
LATER = {
    "qwen": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
    "<|im_start|>assistant\nHi!<|im_end|>\n<|im_start|>user\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHi!<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n",
    "mistral": "<s>[INST] Hello[/INST] Hi!</s>[INST] Be brief.\n\n",
    "gemma": "<s><start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\nHi!<end_of_turn>\n"
    "<start_of_turn>user\n",
}
"""After a dialogue; Gemma's template refuses a system turn, so it has none there."""


def text(name: str, turns: list[dict], opened: bool = False) -> str:
    return rendered((TEMPLATES / f"{name}.jinja").read_text(), turns, SPECIAL, opened=opened)[0]


def dialogue(name: str) -> list[dict]:
    return TALK if name == "gemma" else [SYSTEM, *TALK]


@pytest.mark.parametrize("name", OPENINGS)
def test_the_opening_is_byte_equal_to_the_templates_own(name):
    for before, expected in (([], OPENINGS[name]), (dialogue(name), LATER[name])):
        said = opening(text(name, [*before, USER_TURN]))
        assert said == expected
        for words in ("What is a fjord?", "Why"):  # whatever the user says, it stands right there
            assert text(name, [*before, {"role": "user", "content": words}]).startswith(said + words)


def test_a_template_that_leaves_the_users_text_out_has_no_opening():
    with pytest.raises(ValueError, match="does not write the text"):
        opening(rendered("{% for m in messages %}{{ m.role }}{% endfor %}", [USER_TURN], SPECIAL)[0])


class LlamaServer(Endpoint):
    """A server of llama.cpp's: it renders a chat template, and completes texts."""

    def __init__(self, template: str) -> None:
        super().__init__(lambda body, times: completion(body))
        self.template = template

    def routes(self, router: web.UrlDispatcher) -> None:
        super().routes(router)
        router.add_post("/apply-template", self._render)

    async def _render(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return web.json_response({"prompt": text(self.template, body["messages"], opened=True)})


PIPELINE = """# talk.yaml: what a user asks
version: 1
models: {{teacher: {{provider: openai, model: m, base_url: "{url}", api_key: key{model}}}}}
stages:
  - source: {{path: data/seeds.jsonl}}
  - generate: {{model: teacher, write: user, {stage} max_tokens: 20}}
"""


@pytest.mark.parametrize("name", OPENINGS)
def test_a_server_of_llama_cpp_completes_the_opening_of_its_template(project, name):
    project.rows("data/seeds.jsonl", [{"talk": [], "number": 1}, {"talk": dialogue(name), "number": 2}])
    with LlamaServer(name) as server:
        project.write(
            "pipelines/talk.yaml",
            PIPELINE.format(url=server.url, model=", server: llamacpp", stage="history: talk,"),
        )
        project.cli("run", "talk")
        assert {body["prompt"] for body in server.bodies} == {OPENINGS[name], LATER[name]}
        assert not any("messages" in body for body in server.bodies)
    first, second = project.read("runs/talk/corpus.jsonl")
    assert first["talk"] == [{"role": "user", "content": first["instruction"]}]
    assert second["talk"] == [*dialogue(name), {"role": "user", "content": second["instruction"]}]


def test_a_server_of_vllm_continues_an_empty_turn(project, endpoint):
    project.rows("data/seeds.jsonl", [{"who": "a gardener"}])
    stage = 'template: "@system\\nYou advise {{ who }}.",'
    project.write(
        "pipelines/talk.yaml", PIPELINE.format(url=endpoint.url, model=", server: vllm", stage=stage)
    )
    project.cli("run", "talk")
    (body,) = endpoint.bodies
    assert body["messages"] == [
        {"role": "system", "content": "You advise a gardener."},
        {"role": "user", "content": ""},
    ]
    assert (body["add_generation_prompt"], body["continue_final_message"]) == (False, True)


@pytest.mark.parametrize("model", ["", ", server: vllm, api: completions", ", server: llamacpp, mode: batch"])
def test_an_api_that_cannot_open_a_users_turn_is_refused_before_anything_is_asked(project, endpoint, model):
    project.rows("data/seeds.jsonl", [{"talk": []}])
    project.write("pipelines/talk.yaml", PIPELINE.format(url=endpoint.url, model=model, stage=""))
    error = project.cli("check", "talk", check=2).stderr
    assert "cannot do user_turn" in error and "server: vllm or llamacpp" in error
    project.cli("run", "talk", check=2)
    assert not endpoint.bodies


@pytest.mark.parametrize(
    ("writes", "beginning", "end", "start"),
    [([7], 1, 2, [7]), ([], 1, 2, [1]), ([], 0, 2, [0]), ([], None, 2, [2]), ([], None, None, [])],
)
def test_what_the_tokenizer_writes_comes_first_then_its_beginning_then_its_end(writes, beginning, end, start):
    tokenizer = SimpleNamespace(encode=lambda text: writes, bos_token_id=beginning, eos_token_id=end)
    assert text_start(tokenizer) == start
