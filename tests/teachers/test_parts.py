"""Pictures and sounds in requests, against real servers that look at the pixels: a picture of another row
gives a wrong answer.
"""

import base64
import hashlib
import json
import os
import random
import sqlite3
import sys
from contextlib import closing

import pytest
from aiohttp import web

import distillgen
from distillgen.errors import ConfigError, DistillgenError
from distillgen.inference.faults import Rejected
from distillgen.inference.request import Request
from distillgen.pipeline.load import load
from distillgen.rows.media import media_type
from distillgen.teachers._content import content
from tests.batch_endpoint import BatchEndpoint
from tests.endpoint import Endpoint, completion
from tests.native_endpoint import KEY, AnthropicEndpoint, BedrockEndpoint, GeminiEndpoint
from tests.pictures import colour_of, folder_of, pixels_in, png, wav


def seen(body, times=0):
    """The answer of a server that sees: the first pixel of each picture."""
    answer = completion(body)
    for choice in answer["choices"]:
        choice["message"]["content"] = json.dumps(pixels_in(body))
    return answer


def colours(n):
    draw = random.Random(n)
    return [tuple(draw.randrange(256) for _ in range(3)) for _ in range(n)]


def pipeline(project, url, model="", stage=""):
    return project.write(
        "pipelines/see.yaml",
        f"""version: 1
models:
  teacher: {{provider: openai, model: m, base_url: "{url}", api_key: secret-key-123{model}}}
stages:
  - source: {{path: data/pictures}}
  - generate: {{model: teacher, template: "Which colour?", images: [image], output: answer{stage}}}
""",
    )


def run(project, out="see", expect=None, **options):
    return distillgen.run("pipelines/see.yaml", out=project.path / "runs" / out, **options)


def answers(project, out="see"):
    return {row["file"]: json.loads(row["answer"]) for row in project.read(f"runs/{out}/corpus.jsonl")}


def truth(pixels):
    return {f"{i:04}.png": [list(pixel)] for i, pixel in enumerate(pixels)}


def ledger_of(project):
    with closing(sqlite3.connect(project.path / "runs/ledger.sqlite3")) as ledger:
        return ledger.execute("SELECT request, completion FROM answers").fetchall()


def test_a_thousand_pictures_at_once_are_not_mixed_up_and_faults_send_the_same_picture_again(project):
    pixels = colours(1000)
    folder_of(project.path / "data/pictures", pixels)
    draw = random.Random(0)

    def behave(body, times):
        if times == 1 and draw.random() < 0.05:
            status, headers = draw.choice(
                [(429, {"retry-after": "0"}), (500, {}), (503, {"retry-after": "0"})]
            )
            return web.json_response({"error": {"message": "busy"}}, status=status, headers=headers)
        return seen(body)

    with Endpoint(behave) as endpoint:
        pipeline(project, endpoint.url, ", max_concurrency: 1000")
        run(project)
        assert answers(project) == truth(pixels)
        asked = len(endpoint.bodies)
        assert asked > 1000 and len(endpoint.asked) == 1000  # a further try has the bytes of the first
        rows = ledger_of(project)
        assert max(len(request) + len(answer) for request, answer in rows) < 1000
        assert all(b"base64" not in request and b"pictures/" not in request for request, _ in rows)
        run(project)
        assert len(endpoint.bodies) == asked


def test_a_moved_folder_asks_nothing_again_and_a_changed_pixel_exactly_its_row(project):
    pixels = colours(20)
    folder_of(project.path / "data/pictures", pixels)
    with Endpoint(seen) as endpoint:
        pipeline(project, endpoint.url)
        run(project)
        (project.path / "data/pictures").rename(project.path / "elsewhere")
        run(project, sets=["source.path=elsewhere"])
        assert len(endpoint.bodies) == 20 and answers(project) == truth(pixels)
        (project.path / "elsewhere/0007.png").write_bytes(png((1, 2, 3)))
        pixels[7] = (1, 2, 3)
        run(project, sets=["source.path=elsewhere"])
        assert len(endpoint.bodies) == 21 and answers(project) == truth(pixels)


def test_a_row_shows_several_pictures_in_order(project):
    folder_of(project.path / "data/pictures", [(1, 1, 1), (2, 2, 2)])
    first, second = (
        {"path": f"data/pictures/{name}", "sha256": hashlib.sha256(png(pixel)).hexdigest()}
        for name, pixel in (("0000.png", (1, 1, 1)), ("0001.png", (2, 2, 2)))
    )
    project.rows("data/rows.jsonl", [{"file": "x", "image": [second, first]}, {"file": "y", "image": []}])
    with Endpoint(seen) as endpoint:
        pipeline(project, endpoint.url)
        result = run(project, sets=["source.path=data/rows.jsonl"])
        assert answers(project) == {"x": [[2, 2, 2], [1, 1, 1]]}
        (body,) = endpoint.bodies
        assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url", "image_url", "text"]
    (dropped,) = project.read("runs/see/dropped.jsonl")
    assert "'image' holds no picture" in json.dumps(dropped)
    assert result


@pytest.mark.parametrize("how", ["gone", "changed", "torn", "outside", "folder", "fifo"])
def test_a_picture_that_vanishes_or_changes_fails_its_row_alone(project, how):
    pixels = colours(5)
    folder = folder_of(project.path / "data/pictures", pixels)
    file = folder / "0003.png"

    def behave(body, times):
        return seen(body)

    with Endpoint(behave) as endpoint:
        pipeline(project, endpoint.url)
        rows = [
            {"file": f"{i:04}.png", "image": {"path": f"data/pictures/{i:04}.png", "sha256": _sha(folder, i)}}
            for i in range(5)
        ]
        if how == "outside":
            rows[3]["image"]["path"] = "../outside.png"
        project.rows("data/rows.jsonl", rows)
        if how != "outside":
            file.unlink()
        if how == "changed":
            file.write_bytes(png((9, 9, 9)))
        elif how == "torn":
            file.write_bytes(png(pixels[3])[:40])
        elif how == "folder":
            file.mkdir()
        elif how == "fifo":
            os.mkfifo(file)
        run(project, sets=["source.path=data/rows.jsonl"])
        assert answers(project) == {
            name: value for name, value in truth(pixels).items() if name != "0003.png"
        }
    (dropped,) = project.read("runs/see/dropped.jsonl")
    reason = dropped["meta"]["dropped"]["reason"]
    word = {
        "gone": "No such file",
        "outside": "outside the project",
        "folder": "is no file",
        "fifo": "is no file",
    }
    assert word.get(how, "has changed since") in reason and str(project.path) not in reason


def _sha(folder, i):
    return hashlib.sha256((folder / f"{i:04}.png").read_bytes()).hexdigest()


def test_a_file_of_another_kind_is_not_sent(tmp_path):
    (tmp_path / "a.png").write_bytes(b"#!/bin/sh")
    part = {"type": "image", "path": "a.png", "sha256": hashlib.sha256(b"#!/bin/sh").hexdigest()}
    with pytest.raises(Rejected, match="no picture of a kind"):
        content(part, tmp_path)
    (tmp_path / "a.wav").write_bytes(wav())
    part = {"type": "image", "path": "a.wav", "sha256": hashlib.sha256(wav()).hexdigest()}
    with pytest.raises(Rejected, match="no picture of a kind"):
        content(part, tmp_path)
    assert content({**part, "type": "audio"}, tmp_path) == ("audio/wav", wav())
    with pytest.raises(Rejected, match="cannot be read"):
        content({**part, "path": "a\0.wav"}, tmp_path)


@pytest.mark.parametrize(
    "start, media",
    [
        (b"GIF89a" + bytes(6), "image/gif"),
        (b"\xff\xd8\xff\xe0" + bytes(8), "image/jpeg"),
        (b"RIFF\0\0\0\0WEBP", "image/webp"),
        (b"RIFF\0\0\0\0AVI ", ""),
        (b"ID3\4" + bytes(8), "audio/mpeg"),
        (b"<svg xmlns=''", ""),
        (b"", ""),
    ],
)
def test_the_first_bytes_tell_the_kind(start, media):
    assert media_type(start) == media


def test_batches_carry_pictures_and_give_the_same_rows(project):
    pixels = colours(12)
    folder_of(project.path / "data/pictures", pixels)
    with BatchEndpoint(seen) as endpoint:
        pipeline(project, endpoint.url, ", mode: batch, gather_s: 0.2, poll_s: 0.05, batch_size: 5")
        run(project)
        assert answers(project) == truth(pixels)
        assert len(endpoint.batches) == 3
        lines = len(endpoint.bodies)
        run(project, "online", sets=["teacher.mode=online"])
        assert len(endpoint.bodies) == lines


def _inline(body):
    """The base64 texts of an Anthropic, Gemini or Bedrock request."""
    for turn in body.get("messages", body.get("contents", ())):
        for part in turn.get("content", turn.get("parts", ())):
            if "inlineData" in part:
                yield part["inlineData"]["mimeType"], part["inlineData"]["data"]
            elif part.get("type") == "image":
                yield part["source"]["media_type"], part["source"]["data"]
            elif "image" in part:
                yield f"image/{part['image']['format']}", part["image"]["source"]["bytes"]


@pytest.mark.parametrize(
    "server, provider, more",
    [
        (AnthropicEndpoint, "anthropic", ", max_tokens: 5"),
        (GeminiEndpoint, "gemini", ""),
        (BedrockEndpoint, "bedrock", ", region: us-east-1"),
    ],
)
def test_other_protocols_get_the_same_picture(project, server, provider, more):
    pixels = colours(6)
    folder_of(project.path / "data/pictures", pixels)
    with server() as endpoint:
        model = f"{{provider: {provider}, model: m, base_url: '{endpoint.url}', api_key: {KEY}{more}}}"
        pipeline(project, "http://127.0.0.1:1/v1")
        run(project, sets=[f"models.teacher={model}"])
        pictures = [list(_inline(body)) for body in endpoint.bodies]
    assert sorted(colour_of(base64.b64decode(data)) for ((_, data),) in pictures) == sorted(pixels)
    assert {media for ((media, _),) in pictures} == {"image/png"}


def test_sounds_go_in_the_form_of_openai_and_gemini(project):
    (project.path / "data").mkdir()
    (project.path / "data/a.wav").write_bytes(wav(b"\5\6"))
    clip = {"path": "data/a.wav", "sha256": hashlib.sha256(wav(b"\5\6")).hexdigest()}
    project.rows("data/rows.jsonl", [{"clip": clip}])
    source = ["source.path=data/rows.jsonl", "generate.images=[]", "generate.audio=[clip]"]
    with Endpoint() as endpoint:
        pipeline(project, endpoint.url)
        run(project, sets=source)
        (part, _) = endpoint.bodies[0]["messages"][0]["content"]
        assert part["input_audio"] == {"data": base64.b64encode(wav(b"\5\6")).decode(), "format": "wav"}
    with GeminiEndpoint() as endpoint:
        model = f"models.teacher={{provider: gemini, model: m, base_url: '{endpoint.url}', api_key: {KEY}}}"
        run(project, "gemini", sets=[*source, model])
        assert [media for media, _ in _inline(endpoint.bodies[0])] == ["audio/wav"]
    with pytest.raises(ConfigError, match="cannot do audio; providers that can: openai, gemini"):
        anthropic = "{provider: anthropic, model: m, api_key: key, max_tokens: 5}"
        load("pipelines/see.yaml", sets=[*source, f"models.teacher={anthropic}"])


def test_check_refuses_a_model_that_cannot_see_and_a_price_without_a_bound(project):
    folder_of(project.path / "data/pictures", colours(1))
    pipeline(project, "http://127.0.0.1:1/v1")
    for change, problem in [
        ("teacher.lacks=[images]", "cannot do images; providers that can: openai, anthropic"),
        ("teacher.api=completions", "cannot do images"),
        ("teacher.price={input: 1}", "nothing bounds what images cost; give it image_tokens"),
        ("generate.images=[imag]", "imag"),
    ]:
        with pytest.raises(ConfigError, match=problem):
            load("pipelines/see.yaml", sets=[change])
    load("pipelines/see.yaml", sets=["teacher.price={input: 1}", "teacher.image_tokens=100"])


def test_the_plan_and_the_cap_count_the_tokens_of_pictures(project):
    folder_of(project.path / "data/pictures", colours(10))

    def behave(body, times):
        answer = seen(body)
        answer["usage"] = {"prompt_tokens": 1000, "completion_tokens": 0, "total_tokens": 1000}
        return answer

    priced = ["teacher.price={input: 1000, output: 0}", "teacher.max_tokens=1", "teacher.image_tokens=1000"]
    with Endpoint(behave) as endpoint:
        pipeline(project, endpoint.url, ", max_concurrency: 1")
        bound = load("pipelines/see.yaml", sets=priced).plan()[-1][1]
        assert bound.max_cost_usd is not None and 10.0 <= bound.max_cost_usd < 13
        with pytest.raises(DistillgenError, match="(?s)3.5"):
            run(project, sets=priced, max_cost_usd=3.5)
        assert len(endpoint.bodies) == 3


def test_the_plan_counts_a_picture_that_an_earlier_stage_gives(project):
    pixels = colours(10)
    folder_of(project.path / "data/pictures", pixels)
    project.write(
        "pipelines/see.yaml",
        """version: 1
models:
  teacher: {provider: openai, model: m, api_key: k, price: {input: 1000}, image_tokens: 1000}
stages:
  - source: {path: data/pictures}
  - retrieve: {from: here, by: random, others: true, into: found, keep: [image]}
  - unfold: {field: found, into: found}
  - format: {fields: {other: "{{ found }}"}}
  - generate: {model: teacher, template: "Which?", images: [other], output: answer, max_tokens: 1}
""",
    )
    assert load("pipelines/see.yaml").plan()[-1][1].max_cost_usd >= 10.0


def test_a_prompt_file_names_its_pictures_and_a_dialogue_keeps_them(project):
    pixels = colours(4)
    folder_of(project.path / "data/pictures", pixels)
    project.write("prompts/look.md", "---\nimages: [image]\n---\nWhich colour?")
    project.write(
        "pipelines/see.yaml",
        """version: 1
models:
  teacher: {provider: openai, model: m, base_url: "URL", api_key: k}
stages:
  - source: {path: data/pictures}
  - generate: {name: one, model: teacher, prompt: look, history: talk, output: answer}
  - generate: {name: two, model: teacher, template: "Sure?", history: talk, output: again}
""",
    )
    with Endpoint(seen) as endpoint:
        file = project.path / "pipelines/see.yaml"
        file.write_text(file.read_text().replace("URL", endpoint.url))
        run(project)
        assert answers(project) == truth(pixels)
        assert all(row["again"] == row["answer"] for row in project.read("runs/see/corpus.jsonl"))
        with pytest.raises(ConfigError, match="cannot do images"):
            load("pipelines/see.yaml", sets=["two.model=blind", _blind(endpoint.url)])
        with pytest.raises(ConfigError, match="not after pictures"):
            load("pipelines/see.yaml", sets=["two.template=null", "two.write=user", "teacher.server=vllm"])


def _blind(url):
    return f"models.blind={{provider: openai, model: b, base_url: '{url}', api_key: k, lacks: [images]}}"


def test_judges_see_the_picture(project):
    pixels = colours(8)
    folder_of(project.path / "data/pictures", pixels)

    def judge(body, times):
        text = body["messages"][-1]["content"][-1]["text"]
        right = json.dumps(pixels_in(body)[0]) in text
        answer = completion(body)
        answer["choices"][0]["message"]["content"] = json.dumps({"reason": "r", "score": 9 if right else 2})
        return answer

    project.write(
        "pipelines/see.yaml",
        """version: 1
models:
  teacher: {provider: openai, model: m, base_url: "URL", api_key: k}
stages:
  - source: {path: data/pictures}
  - format: {fields: {said: "{{ file }}"}}
  - filter: [judge: {model: teacher, rubric: "true", fields: [said], images: [image]}]
""",
    )
    with Endpoint(judge) as endpoint:
        file = project.path / "pipelines/see.yaml"
        file.write_text(file.read_text().replace("URL", endpoint.url))
        for i, pixel in enumerate(pixels[:5]):  # a file is named by its pixel: five of eight say the truth
            old = project.path / f"data/pictures/{i:04}.png"
            old.rename(old.with_name(f"{json.dumps(pixel)}.png"))
        run(project)
        assert len(project.read("runs/see/corpus.jsonl")) == 5
        with pytest.raises(ConfigError, match="cannot do images"):
            load("pipelines/see.yaml", sets=["judge.model=blind", _blind(endpoint.url)])


def test_a_script_gets_the_bytes(project):
    pixels = colours(3)
    folder_of(project.path / "data/pictures", pixels)
    pipeline(project, "http://127.0.0.1:1/v1")

    def look(request: Request, sample: int) -> str:
        (picture, _) = request.messages[0]["content"]
        return json.dumps([colour_of(picture["data"])])

    run(project, teachers={"teacher": look})
    assert answers(project) == truth(pixels)


def test_killed_while_pictures_are_on_the_wire(project):
    pixels = colours(60)
    folder_of(project.path / "data/pictures", pixels)
    with Endpoint(seen, latency_s=0.02) as endpoint:
        pipeline(project, endpoint.url, ", max_concurrency: 4")
        command = [sys.executable, "-m", "distillgen", "run", "see"]
        project.kill_at([10, 25, 40], command, "runs/ledger.sqlite3")
        run(project)
        assert answers(project) == truth(pixels)
        assert len(endpoint.bodies) <= 60 + 3 * 4


def test_check_takes_a_folder_with_a_torn_picture_and_the_run_drops_its_row(project):
    pixels = colours(4)
    folder = folder_of(project.path / "data/pictures", pixels)
    (folder / "0002.png").write_bytes(png(pixels[2])[:40])
    rows = [{"file": f"{i:04}.png", "image": f"pictures/{i:04}.png"} for i in range(5)]
    project.rows("data/rows.jsonl", rows)
    with Endpoint(seen) as endpoint:
        pipeline(project, endpoint.url)
        others = {name: value for name, value in truth(pixels).items() if name != "0002.png"}
        for out, sets in (("see", []), ("rows", ["source.path=data/rows.jsonl", "source.images=[image]"])):
            run(project, out, sets=sets)
            assert answers(project, out) == others
            reasons = [row["meta"]["dropped"] for row in project.read(f"runs/{out}/dropped.jsonl")]
            assert {reason["filter"] for reason in reasons} == {"unusable_file"}
            assert "'0002.png' is cut off" in reasons[0]["reason"]
        assert "there is no file 'pictures/0004.png'" in reasons[1]["reason"]
        for file in folder.iterdir():
            file.write_bytes(b"no picture")
        with pytest.raises(ConfigError, match="0000.png"):
            load("pipelines/see.yaml")
