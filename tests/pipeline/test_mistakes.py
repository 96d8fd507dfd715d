# ruff: noqa: E501 (a mistake a line)
"""Every mistake that a person can make is told in one line, with its place and its remedy, before anything is
asked.

A mistake is a change to a project that is valid. Each runs `python -m distillgen` with a real endpoint in the
pipeline: a mistake that nobody notices asks it, and fails the test. All run in this process; a dozen also in
one of their own.
"""

import json
import re
import runpy
import sys
from dataclasses import dataclass

import pytest

from tests.endpoint import Endpoint, completion

PIPELINE = """\
# base.yaml: answers to questions
version: 1
seed: 7
system:
  paper: None et al.
  elicitation: expansion
models:
  teacher:
    provider: openai
    model: m
    base_url: URL
    max_tokens: 50
  writer:
    provider: scripted
    model: echo
stages:
  - source:
      path: data/seeds.jsonl
  - generate:
      model: teacher
      prompt: ask
      with: {tone: dry}
  - filter:
      - short
      - long: {name: other, most: 90}
  - generate:
      name: again
      model: writer
      template: "{{ question }} {{ answer }}"
      output: echoed
  - format:
      fields: {text: "{{ question }} {{ answer }}"}
      keep: [question]
"""
PROMPT = """\
---
about: one answer
output: {json: {answer: string, reason: string}}
sampling: {temperature: 0.7}
few_shot:
  n: 2
  examples:
    - question: What is one?
      answer: {answer: one, reason: it is}
    - question: What is two?
      answer: {answer: two, reason: it is}
vary:
  style: [plain, lively]
inputs: [question, tone]
---
@system
Be {{ tone }} and {{ style }}.
@user
{{ question }}
"""
SHORT = '''\
"""Short answers."""

from distillgen import FieldName, Filter


def short(*, field: FieldName = "answer", max_words: int = 30) -> Filter:
    """Drop long answers."""
    if max_words < 1:
        raise ValueError("max_words must be at least 1")
    return Filter(
        measure=lambda records: [len(r.fields[field].split()) for r in records],
        decide=lambda words: None if words <= max_words else f"{words} words > {max_words}",
    )
'''
LONG = SHORT.replace("def short", "def long").replace("max_words", "most")
BASE = {
    "pipelines/base.yaml": PIPELINE,
    "prompts/ask.md": PROMPT,
    "filters/short.py": SHORT,
    "filters/long.py": LONG,
    "data/seeds.jsonl": "".join(
        json.dumps({"question": f"What is {i}?", "number": i}) + "\n" for i in range(4)
    ),
}
YAML, ASK, SEEDS = "pipelines/base.yaml", "prompts/ask.md", "data/seeds.jsonl"


@dataclass(frozen=True)
class Mistake:
    """`changes` are (file, old text, new text), or (file, None, whole text). The message stands at the line
    of `at` in `file` (0: at the file, None: at neither) and holds every text of `says`.
    """

    name: str
    changes: tuple = ()
    file: str | None = YAML
    at: str | int | None = None
    says: tuple = ()
    args: tuple = ()


def yaml(name, old, new, at, *says, args=()):
    return Mistake(name, ((YAML, old, new),), YAML, at, says, args)


def prompt(name, old, new, at, *says):
    """A mistake in the prompt file."""
    return Mistake(name, ((ASK, old, new),), ASK, at, says)


def data(name, file, text, at, *says):
    """A mistake in a source."""
    return Mistake(name, ((file, None, text), (YAML, "data/seeds.jsonl", file)), file, at, says)


def code(name, file, text, at, *says):
    """A mistake in a filter file."""
    return Mistake(name, ((file, None, text),), file, at, says)


def typed(name, *args, says):
    """A mistake on the command line."""
    return Mistake(name, (), None, None, says, args)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)
)

MISTAKES = [
    # the file as YAML
    yaml("yaml syntax", "    model: m\n", "    model: [m\n", "base_url", "not valid YAML", "','", "']'"),
    yaml("yaml unclosed quote", "paper: None et al.", 'paper: "None et al.', "template:", "not valid YAML", "begins in line 5", "quote or bracket left open?"),
    yaml("yaml colon in text", "paper: None et al.", "paper: Distilling: a study", "paper:", "not valid YAML", "quotes"),
    yaml("yaml tab", "    model: m\n", "\tmodel: m\n", "\tmodel", "a tab", "indent with spaces"),
    yaml("yaml alias without anchor", "paper: None et al.", "paper: *study", "*study", "not valid YAML", "'study'", "in quotes"),
    yaml("yaml unquoted at", "paper: None et al.", "paper: @None", "@None", "'@'", "in quotes"),
    yaml("yaml unquoted template", 'template: "{{ question }} {{ answer }}"', "template: {{ question }}", "template:", "a key must be", "{{ … }} in quotes"),
    yaml("yaml uneven indentation", "    model: m\n", "   model: m\n", "   model: m", "not valid YAML", "indentation"),
    yaml("duplicate key", "seed: 7\n", "seed: 7\nseed: 8\n", "seed: 8", "'seed' stands twice", "keep one"),
    yaml("stage twice inside rounds", "  - format:\n", "  - rounds: {stages: [{generate: {model: writer, template: x}}]}\n  - format:\n", "rounds: {stages", "two stages have the name 'generate'"),
    yaml("duplicate option", "      prompt: ask\n", "      prompt: ask\n      prompt: ask2\n", "prompt: ask2", "'prompt' stands twice"),
    Mistake("alias bomb", ((YAML, None, BOMB + PIPELINE),), YAML, "a: &a", ("too many", "aliases")),
    yaml("deep nesting", "paper: None et al.", "paper: " + "[" * 400 + "]" * 400, "paper:", "nested"),
    yaml("python object", "paper: None et al.", "paper: !!python/object/apply:os.system [exit]", "!!python", "the tag '!!python/object/apply:os.system' is not allowed", "remove it"),
    yaml("python name", "model: m\n", "model: !!python/name:os.system x\n", "!!python", "the tag '!!python/name:os.system' is not allowed", "remove it"),
    yaml("own tag", "seed: 7", "seed: !seven 7", "!seven", "the tag '!seven' is not allowed", "remove it"),
    yaml("tag that does not fit", "seed: 7", "seed: !!bool seven", "!!bool", "'seven' is not a plain value"),
    Mistake("control character", ((YAML, "paper: None", "paper: \x1b[2J"),), YAML, "paper:", ("not valid YAML", "U+001B", "remove it")),
    yaml("two documents", "seed: 7\n", "seed: 7\n---\nseed: 8\n", "---", "a second document", "one document in a file"),
    Mistake("not text", ((YAML, None, b"version: 1\n\xff\xfe\n"),), YAML, 2, ("save the file as UTF-8",)),
    # the top level
    Mistake("top level a list", ((YAML, None, "- version: 1\n"),), YAML, 1, ("a pipeline is a mapping", "version, models and stages")),
    Mistake("empty file", ((YAML, None, ""),), YAML, 1, ("a pipeline is a mapping",)),
    yaml("missing version", "version: 1\n", "", "seed", "needs 'version'", "1"),
    yaml("wrong version", "version: 1", "version: 2", "version: 2", "version", "1", "2"),
    yaml("unknown top key", "seed: 7", "sead: 7", "sead", "no option 'sead'", "did you mean 'seed'?"),
    yaml("wrong seed", "seed: 7", "seed: seven", "seed: seven", "seed", "integer", "seven"),
    yaml("unknown system key", "  paper:", "  papper:", "papper", "no option 'papper'", "did you mean 'paper'?"),
    yaml("unknown system value", "elicitation: expansion", "elicitation: expanding", "elicitation", "elicitation", "expansion", "expanding"),
    Mistake("no stages", ((YAML, None, PIPELINE.split("stages:")[0]),), YAML, "version", ("needs 'stages'", "the first a source")),
    Mistake("empty stages", ((YAML, None, PIPELINE.split("stages:")[0] + "stages: []\n"),), YAML, "stages:", ("'stages'", "must not be empty")),
    # stages
    Mistake("first stage not a source", ((YAML, "  - source:\n      path: data/seeds.jsonl\n", ""),), YAML, "- generate", ("the first stage must be a source", "generate")),
    yaml("second source", "  - filter:\n", "  - source: {path: data/seeds.jsonl, name: more}\n  - filter:\n", "name: more", "source must be the first stage"),
    yaml("unknown stage", "  - filter:\n", "  - fliter:\n", "fliter", "no stage 'fliter'", "did you mean 'filter'?"),
    yaml("stage with two keys", "  - filter:\n", "  - generate: {}\n    filter:\n", "- generate: {}", "one key, its kind", "filter"),
    yaml("stage without its kind", "  - filter:\n", "  - short\n  - filter:\n", "- short", "must be a mapping", "'stages.2'", "not 'short'"),
    yaml("stage options a word", "  - generate:\n      model: teacher\n      prompt: ask\n      with: {tone: dry}\n", "  - generate: ask\n", "generate: ask", "stage 'generate'", "must be a mapping of options", "ask"),
    yaml("misspelt option of source", "      path: data", "      paths: data", "paths:", "stage 'source' has no option 'paths'", "did you mean 'path'?"),
    yaml("misspelt option of generate", "      with: {tone", "      max_token: 3\n      with: {tone", "max_token:", "no option 'max_token'", "did you mean 'max_tokens'?"),
    yaml("misspelt option of format", "      keep: [question]", "      keeps: [question]", "keeps", "stage 'format' has no option 'keeps'", "did you mean 'keep'?"),
    yaml("wrong option type", "      with: {tone", "      n: many\n      with: {tone", "n: many", "stage 'generate'", "'n': must be a valid integer", "not 'many'"),
    yaml("option without a value", "      with: {tone", "      n:\n      with: {tone", "      n:", "'n': must be a valid integer, not 'null'"),
    yaml("option of several types", "      with: {tone", "      stop: 3\n      with: {tone", "stop: 3", "'stop': must be a valid list"),
    yaml("entry of an option of several types", '      fields: {text: "{{ question }} {{ answer }}"}\n', "      messages: [{user: 3}]\n", "user: 3", "'messages.0.user': must be a valid string"),
    yaml("number that JSON cannot hold", "      with: {tone", "      n: 99999999999999999999\n      with: {tone", "n: 9", "'99999999999999999999' is too large", "quotes"),
    yaml("source without a name", "      path: data/seeds.jsonl\n", '      path: ""\n', "- source:", "the name of the source is empty"),
    yaml("name that no file has", "      path: data/seeds.jsonl\n", '      path: "a\\0b"\n', "- source:", "is no name of a file"),
    yaml("option below its least", "      with: {tone", "      n: 0\n      with: {tone", "n: 0", "'n': must be greater than or equal to 1", "not '0'"),
    yaml("yaml word as option", "      with: {tone", "      n: yes\n      with: {tone", "n: yes", "'n'", "a number, not YAML's yes"),
    yaml("missing option", "      model: teacher\n", "", "- generate:", "stage 'generate' needs 'model'", "one of the pipeline's models"),
    yaml("source of nothing", "      path: data/seeds.jsonl\n", "      format: jsonl\n", "- source:", "stage 'source'", "one of 'path', 'dataset', 'script' and 'draw'"),
    yaml("misspelt required option", "      model: teacher\n", "      modle: teacher\n", "modle", "no option 'modle'", "did you mean 'model'?"),
    yaml("prompt and template", "      prompt: ask\n", "      prompt: ask\n      template: x\n", "prompt: ask", "either 'prompt'", "or 'template'"),
    yaml("neither prompt nor template", "      prompt: ask\n", "", "- generate:", "either 'prompt'", "or 'template'"),
    yaml("stage twice without name", "      name: again\n", "", "- generate:\n      model: writer", "two stages have the name 'generate'", "generate: {name: …}"),
    yaml("stage name with a slash", "name: again", "name: ../again", "name: ../again", "'../again'", "letters, digits"),
    yaml("stage name with a space", "name: again", "name: once more", "name: once more", "'once more'", "letters, digits"),
    yaml("unused with", "with: {tone: dry}", "with: {tone: dry, mood: gay}", "mood", "'mood'", "does not use", "known: question, tone"),
    yaml("output of a form with fields", "      with: {tone", "      output: response\n      with: {tone", "output: response", "'output' has no meaning", "json"),
    yaml("output called meta", "output: echoed", "output: meta", "output: meta", "'meta' is distillgen's own", "give the output another name"),
    yaml("format makes meta", "fields: {text:", "fields: {meta:", "{meta:", "'meta' is distillgen's own"),
    yaml("format of nothing", '      fields: {text: "{{ question }} {{ answer }}"}\n      keep: [question]\n', "      name: shape\n", "- format", "nothing to do", "'fields', 'messages', 'prompt' or 'keep'"),
    yaml("text cut by its comma", 'fields: {text: "{{ question }} {{ answer }}"}', "fields: {text: Question, {{ question }}}", "fields: {text", "a key must be a plain word; put a text with {{ … }} in quotes"),
    yaml("rubric cut by its comma", "keep: [question]", "name: f\n  - filter:\n      - judge: {model: teacher, rubric: clear, complete and kind, min_score: 7}", "complete and kind", "'complete and kind' has no value", 'quote it: rubric: "clear, complete and kind"'),
    yaml("format with an unknown role", '      fields: {text: "{{ question }} {{ answer }}"}\n', '      messages: [{bot: "{{ answer }}"}]\n', "bot", "system, user, assistant", "bot"),
    yaml("format with an unknown shape", '      fields: {text: "{{ question }} {{ answer }}"}\n', "      shape: alpca\n", "alpca", "no shape 'alpca'", "did you mean 'alpaca'?"),
    yaml("format with a misspelt field in a shape", '      fields: {text: "{{ question }} {{ answer }}"}\n', "      shape: {alpaca: {output: anwser}}\n", "anwser", "the field 'anwser'", "did you mean 'answer'?"),
    yaml("misspelt field in format", '{text: "{{ question }} {{ answer }}"}', '{text: "{{ question }} {{ anwser }}"}', "anwser", "'anwser'", "did you mean 'answer'?"),
    yaml("misspelt field in keep", "keep: [question]", "keep: [qestion]", "keep:", "'qestion'", "did you mean 'question'?"),
    yaml("misspelt field in template", '"{{ question }} {{ answer }}"\n      output', '"{{ question }} {{ anwser }}"\n      output', "anwser", "'anwser'", "did you mean 'answer'?"),
    yaml("template syntax in place", '"{{ question }} {{ answer }}"\n      output', '"{{ question } {{ answer }}"\n      output', "{{ question } ", "template", "'}'"),
    yaml("template that is never closed", '"{{ question }} {{ answer }}"\n      output', '"{% if question %} {{ answer }}"\n      output', "{% if", "template", "'endif'"),
    yaml("unknown template filter", '"{{ question }} {{ answer }}"\n      output', '"{{ question|uper }} {{ answer }}"\n      output', "uper", "template", "'uper'", "did you mean 'upper'?"),
    # models
    yaml("unknown model", "      model: teacher", "      model: techer", "model: techer", "no model 'techer'", "did you mean 'teacher'?"),
    yaml("unknown provider", "    provider: openai", "    provider: open-ai", "provider: open-ai", "no provider 'open-ai'", "did you mean 'openai'?"),
    yaml("missing provider", "    provider: openai\n", "", "  teacher:", "model 'teacher' needs 'provider'", "openai, anthropic, gemini, bedrock, embedded, vllm, transformers, network or"),
    yaml("missing model name", "    model: m\n", "", "  teacher:", "model 'teacher' needs 'model'", "name of the model"),
    yaml("model without options", "    provider: scripted\n    model: echo\n", "", "  writer:", "writer", "mapping"),
    yaml("misspelt model option", "    max_tokens: 50", "    max_tokns: 50", "max_tokns", "model 'teacher' has no option 'max_tokns'", "did you mean 'max_tokens'?"),
    yaml("model name with a space", "  writer:\n", "  the writer:\n", "the writer", "'the writer'", "letters, digits"),
    yaml("bad base_url", "base_url: URL", "base_url: localhost:8000", "base_url:", "'localhost:8000'", "http://localhost:8000/v1"),
    yaml("address with a space", "base_url: URL", "base_url: http://my host/v1", "base_url:", "'http://my host/v1'", "http://localhost:8000/v1"),
    yaml("endless wait", "base_url: URL", "base_url: URL\n    timeout_s: 1e30", "timeout_s:", "'timeout_s': must be less than or equal to 604800"),
    yaml("bad port", "base_url: URL", "base_url: http://localhost:80000/v1", "base_url:", "base_url", "http://localhost:8000/v1"),
    yaml("official endpoint without key", "    base_url: URL\n", "", "  teacher:", "api.openai.com needs a key", "api_key: ${OPENAI_API_KEY}"),
    yaml("unset variable", "base_url: URL", "base_url: URL\n    api_key: ${NO_SUCH_KEY}", "${NO_SUCH_KEY}", "NO_SUCH_KEY is not set", "export NO_SUCH_KEY=…"),
    yaml("empty key", "base_url: URL", 'base_url: URL\n    api_key: ""', "api_key:", "'api_key' is empty", "leave it out"),
    yaml("negative price", "base_url: URL", "base_url: URL\n    price: {input: -1}", "price:", "price.input", "greater than or equal to 0"),
    yaml("misspelt price", "base_url: URL", "base_url: URL\n    price: {inputs: 1}", "price:", "no option 'inputs'", "did you mean 'input'?"),
    yaml("price a number", "base_url: URL", "base_url: URL\n    price: 3", "price: 3", "price", "mapping"),
    yaml("negative temperature", "max_tokens: 50", "temperature: -1", "temperature: -1", "temperature", "greater than or equal to 0"),
    yaml("grammar at openai", "      with: {tone", "      grammar: 'root ::= \"a\"'\n      with: {tone", "model: teacher", "(openai) cannot do grammar", "embedded"),
    yaml("unknown script", "    model: echo", "    model: ecco", "model: ecco", "no script 'ecco'", "did you mean 'echo'?"),
    yaml("script that is not there", "    model: echo", "    model: mine.py:f", "model: mine.py:f", "no script 'mine.py'"),
    # prompts
    yaml("unknown prompt", "prompt: ask", "prompt: aks", "prompt: aks", "no prompt 'aks'", "did you mean 'ask'?"),
    Mistake("misspelt field in prompt", ((ASK, None, "@system\nBe {{ tone }}\n@user\n{{ qestion }}\n"),), YAML, "prompt: ask", ("prompt 'ask' (prompts/ask.md:4) needs the field 'qestion'", "did you mean 'question'?")),
    Mistake("prompt not text", ((ASK, None, b"a\n\xff\xfe"),), ASK, 2, ("save the file as UTF-8",)),
    prompt("bad front matter key", "sampling:", "samplings:", "samplings", "no option 'samplings'", "did you mean 'sampling'?"),
    prompt("bad front matter yaml", "about: one answer", "about: one: answer", "about:", "not valid YAML", "quotes"),
    prompt("front matter a list", PROMPT.split("---\n")[1], "- a\n- b\n", "- a", "front matter", "mapping"),
    prompt("front matter without end", "inputs: [question, tone]\n---\n", "inputs: [question, tone]\n", 1, "front matter does not end", "---"),
    prompt("bad sampling in prompt", "temperature: 0.7", "temprature: 0.7", "sampling:", "no option 'temprature'", "did you mean 'temperature'?"),
    prompt("bad output form", "output: {json: {answer: string, reason: string}}", "output: jsn", "output:", "no form 'jsn'", "did you mean 'json'?"),
    prompt("form without its schema", "output: {json: {answer: string, reason: string}}", "output: json", "output:", "'json' needs a schema", "{json: …}"),
    prompt("bad regex", "output: {json: {answer: string, reason: string}}", "output: {regex: '(?P<answer>.*'}", "output:", "regular expression", "unterminated"),
    prompt("regex without groups", "output: {json: {answer: string, reason: string}}", "output: {regex: 'A: (.*)'}", "output:", "named groups", "(?P<field>…)"),
    prompt("bad json type", "{answer: string, reason: string}", "{answer: strng, reason: string}", "output:", "'answer'", "did you mean 'string'?"),
    prompt("bad json schema", "{answer: string, reason: string}", "{answer: {type: string, minLength: few}}", "output:", "JSON schema", "few"),
    prompt("template syntax", "{{ question }}", "{{ question }", "{{ question }", "template", "'}'"),
    prompt("template include", "{{ question }}", "{% include 'data/seeds.jsonl' %}", "include", "cannot include, import or extend"),
    prompt("template import", "{{ question }}", "{% import 'x' as y %}", "import", "cannot include, import or extend"),
    prompt("unknown role", "@user", "@usr", "@usr", "no role '@usr'", "did you mean 'user'?"),
    prompt("no user turn", "@user\n", "@assistant\n", "@system", "needs a @user turn"),
    prompt("text before the first role", "@system\n", "Hello\n@system\n", "Hello", "before the first @system"),
    prompt("example without answer", "      answer: {answer: two, reason: it is}\n", "", "- question: What is two?", "example 2 has no 'answer'"),
    prompt("example with an unused key", "- question: What is two?", "- question: What is two?\n      mood: dull", "- question: What is two?", "example 2 gives 'mood'", "does not use"),
    prompt("example whose answer is not of the form", "answer: {answer: two, reason: it is}", "answer: two", "- question: What is two?", "the answer of example 2", "JSON"),
    prompt("fewer than n examples", "  n: 2", "  n: 3", "examples:", "n is 3, but there are 2 examples"),
    prompt("few_shot file that is not there", PROMPT[PROMPT.index("  examples:") : PROMPT.index("vary:")], "  examples: data/seed.jsonl\n", "examples:", "no file 'data/seed.jsonl'", "did you mean 'seeds.jsonl'?"),
    prompt("few_shot file outside", PROMPT[PROMPT.index("  examples:") : PROMPT.index("vary:")], "  examples: ../outside.jsonl\n", "examples:", "outside the project"),
    prompt("vary unused", " and {{ style }}", "", "style:", "does not use 'style'"),
    prompt("vary more than there is", "style: [plain, lively]", "style: {of: [plain, lively], n: 3}", "style:", "'style' wants 3 of 2 values"),
    prompt("inputs declared but unused", "inputs: [question, tone]", "inputs: [question, tone, mood]", "inputs:", "declares 'mood'", "does not use"),
    prompt("inputs used but undeclared", "inputs: [question, tone]", "inputs: [question]", "inputs:", "does not declare 'tone'"),
    # filters
    yaml("unknown filter", "      - short\n", "      - shrt\n", "- shrt", "no filter 'shrt'", "did you mean 'short'?"),
    yaml("misspelt filter option", "{name: other, most: 90}", "{name: other, mosst: 90}", "mosst", "filter 'long' has no option 'mosst'", "did you mean 'most'?"),
    yaml("wrong filter option type", "{name: other, most: 90}", "{name: other, most: lots}", "lots", "filter 'long'", "'most'", "integer", "lots"),
    yaml("filter option that is not a mapping", "long: {name: other, most: 90}", "long: 90", "long: 90", "filter 'long'", "mapping", "90"),
    yaml("misspelt field in filter", "{name: other, most: 90}", "{name: other, field: anwser}", "anwser", "'anwser'", "did you mean 'answer'?"),
    yaml("field of filter is not there yet", "prompt: ask\n      with: {tone: dry}", 'template: "{{ question }}"\n      output: reply', "- short", "'answer'", "no earlier stage"),
    yaml("filter twice without name", "      - short\n", "      - short\n      - short\n", "- short", "two filters have the name 'short'", "short: {name: …}"),
    yaml("filter twice across stages", "  - format:\n", "  - filter: {name: later, filters: [short]}\n  - format:\n", "name: later", "stages 'filter' and 'later' both have a filter 'short'", "short: {name: …}"),
    yaml("filter factory refuses", "{name: other, most: 90}", "{name: other, most: 0}", "most: 0", "filter 'long': most must be at least 1"),
    yaml("filters as a mapping", "      - short\n      - long: {name: other, most: 90}\n", "      short: {max_words: 3}\n", "short:", "no option 'short'", "known: filters, mark, name"),
    code("filter file without the function", "filters/short.py", SHORT.replace("def short", "def shorter"), 0, "one function named as the file", "def short("),
    code("filter file with a syntax error", "filters/short.py", SHORT.replace("-> Filter:", "-> Filter"), "def short", "expected ':'"),
    code("filter file that raises", "filters/short.py", SHORT.replace('"""Short answers."""', "import no_such_module"), "import no_such_module", "No module named 'no_such_module'"),
    code("filter with a positional option", "filters/short.py", SHORT.replace("*, field", "field"), 0, "keyword-only", "def short(*, field"),
    code("filter that is none", "filters/short.py", SHORT.replace("    return Filter(", "    return dict("), 0, "'short' gives dict, not a Filter", "return Filter(measure=…, decide=…)"),
    # sources
    yaml("missing source file", "data/seeds.jsonl", "data/seed.jsonl", "path:", "no file 'data/seed.jsonl'", "did you mean 'seeds.jsonl'?"),
    yaml("missing source folder", "data/seeds.jsonl", "date/seeds.jsonl", "path:", "no file 'date/seeds.jsonl'", "date"),
    yaml("source outside the project", "data/seeds.jsonl", "../outside.jsonl", "path:", "outside the project", "--set"),
    yaml("source at an absolute path", "data/seeds.jsonl", "/etc/hostname", "path:", "outside the project", "--set"),
    Mistake("source of an unknown kind", ((YAML, "data/seeds.jsonl", "data/seeds.xyz"), ("data/seeds.xyz", None, "a")), YAML, "path:", ("'seeds.xyz'", "format: jsonl, csv, parquet or text")),
    yaml("misspelt source field", "path: data/seeds.jsonl", "path: data/seeds.jsonl\n      fields: {question: qestion}", "qestion", "no field 'qestion'", "did you mean 'question'?"),
    Mistake("empty source", ((SEEDS, None, ""),), YAML, "path:", ("has no rows",)),
    Mistake("bad JSON in line 3", ((SEEDS, None, '{"question": "a"}\n\n{"question": \n'),), SEEDS, '{"question": \n', ("not JSON: Expecting value at character 15",)),
    Mistake("NaN in a row", ((SEEDS, None, '{"question": "a"}\n{"question": NaN}\n'),), SEEDS, "NaN", ("not JSON", "NaN")),
    Mistake("row not an object", ((SEEDS, None, '{"question": "a"}\n["question"]\n'),), SEEDS, '["question"]', ("must be an object",)),
    Mistake("row with meta", ((SEEDS, None, '{"question": "a", "meta": 1}\n'),), SEEDS, '"meta"', ("'meta' is distillgen's own", "fields: {other: meta}")),
    data("CSV with a ragged row", "data/r.csv", "question,number\na,1\nb,2,3\n", "b,2,3", "another number of cells", "2"),
    data("CSV with a short row", "data/r.csv", "question,number\na\n", "a\n", "another number of cells"),
    data("not UTF-8 text", "data/r.txt", b"\xff\xfe\xff", 0, "not UTF-8"),
    data("not UTF-8 rows", "data/r.jsonl", b'{"question": "a"}\n{"question": "\xff"}\n', 2, "not UTF-8 text"),
    data("not UTF-8 CSV", "data/r.csv", b"question\na\n\xff\n", 3, "not UTF-8 text"),
    # the command line
    typed("--set of no such stage", "--set", "techer.temperature=1", says=("--set", "no model or stage 'techer'", "did you mean 'teacher'?")),
    typed("--set of no such option", "--set", "teacher.temprature=1", says=("'temprature'", "did you mean 'temperature'?", "--set")),
    typed("--set with a wrong value", "--set", "teacher.temperature=hot", says=("temperature", "hot", "--set")),
    typed("--set without a value", "--set", "teacher.temperature", says=("--set takes name.option=value", "teacher.temperature")),
    typed("--set with bad YAML", "--set", "teacher.stop=[a", says=("--set", "teacher.stop=[a")),
    Mistake("--set that a stage overrides", ((YAML, "      with: {tone", "      temperature: 1\n      with: {tone"),), None, None, ("changes nothing", "--set generate.temperature=0.2"), ("--set", "teacher.temperature=0.2")),
    typed("--set in no mapping", "--set", "seed.x=1", says=("--set seed.x=1", "not a mapping")),
    typed("--retry-with alone", "--retry-with", "max_tokens=9", says=("--retry-failed", "both")),
    typed("--retry-with a wrong option", "--retry-failed", "--retry-with", "max_token=9", says=("--retry-with", "did you mean 'max_tokens'?")),
    typed("--retry-with without a value", "--retry-failed", "--retry-with", "max_tokens", says=("--retry-with takes OPTION=VALUE", "max_tokens")),
    typed("--from of no such stage", "--from", "fliter", says=("no stage 'fliter'", "did you mean 'filter'?")),
    typed("--until of no such stage", "--until", "formt", says=("no stage 'formt'", "did you mean 'format'?")),
    typed("--stage of no such stage", "--stage", "generat", says=("no stage 'generat'", "did you mean 'generate'?")),
    typed("--from an unfinished stage", "--from", "filter", says=("--from filter", "'generate'", "has not been run", "without --from")),
    typed("--from after --until", "--from", "filter", "--until", "generate", says=("'generate' comes before 'filter'",)),
    typed("--max-cost-usd without price", "--max-cost-usd", "1", says=("'teacher' has no price", "price: {input: …, output: …}")),
    Mistake("--max-cost-usd without max_tokens", ((YAML, "max_tokens: 50", "price: {input: 1, output: 1}"),), None, None, ("'generate' has no max_tokens", "set it in the prompt's sampling, the model or the stage"), ("--max-cost-usd", "1")),
    typed("negative --max-cost-usd", "--max-cost-usd", "-1", says=("--max-cost-usd", "-1")),
    typed("--concurrency 0", "--concurrency", "0", says=("--concurrency", "0")),
    typed("--limit that is no number", "-n", "few", says=("few", "not a valid whole number")),
    typed("unknown option", "--outt", "x", says=("--outt", "--out")),
    typed("--out under a file", "--out", "data/seeds.jsonl/run", says=("cannot write to 'data/seeds.jsonl/run'", "--out")),
    typed("--out that is empty", "--out", "", says=("--out", "it is empty")),
    Mistake("--out a folder of the user's", (("prompts/README.md", None, "mine"),), None, None, ("'prompts' is no run", "its 'README.md'", "--out"), ("--out", "prompts")),
    typed("--shard of another form", "--shard", "2", says=("--shard takes I/N, such as 0/4", "not '2'")),
    typed("--out a file", "--out", "data/seeds.jsonl", says=("data/seeds.jsonl", "--out")),
    typed("--ledger in no folder", "--ledger", "no/such/ledger.sqlite3", says=("no/such/ledger.sqlite3",)),
    typed("--ledger that is none", "--ledger", "pipelines/base.yaml", says=("pipelines/base.yaml", "does not begin as a ledger does")),
]  # fmt: skip


class Case:
    """The project of a mistake, with a real endpoint in its pipeline."""

    def __init__(self, project, endpoint):
        self.project, self.endpoint = project, endpoint

    def make(self, mistake):
        files = dict(BASE)
        for file, old, new in mistake.changes:
            assert old is None or files[file].count(old) >= 1, f"{old!r} is not in {file}"
            files[file] = new if old is None else files[file].replace(old, new, 1)
        self.files = {
            name: text if isinstance(text, bytes) else text.replace("URL", self.endpoint.url)
            for name, text in files.items()
        }
        for name, text in self.files.items():
            self.project.write(name, "").write_bytes(text if isinstance(text, bytes) else text.encode())
        self.project.write("../outside.jsonl", '{"question": "secret", "answer": "secret"}\n')

    def expected_place(self, mistake):
        if mistake.file is None or mistake.at is None:
            return ""
        if mistake.at == 0:
            return mistake.file
        if isinstance(mistake.at, int):
            return f"{mistake.file}:{mistake.at}: "
        text = self.files[mistake.file]
        assert mistake.at in text, f"{mistake.at!r} is not in {mistake.file}"
        return f"{mistake.file}:{text[: text.index(mistake.at)].count(chr(10)) + 1}: "


@pytest.fixture
def case(project, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    answer = json.dumps({"answer": "yes", "reason": "so"})
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer}}
    with Endpoint(lambda body, times: completion(body, choices=[choice])) as endpoint:
        yield Case(project, endpoint)


def here(capfd, *args):
    """`python -m distillgen ARGS` in this process: exit code, stdout, stderr."""
    argv, sys.argv = sys.argv, ["distillgen", *args]
    try:
        with pytest.raises(SystemExit) as stop:
            runpy.run_module("distillgen", run_name="__main__", alter_sys=True)
            sys.exit(0)
    finally:
        sys.argv = argv
    out, err = capfd.readouterr()
    return stop.value.code or 0, out, err


def test_the_project_is_valid_without_the_mistakes(case, capfd):
    case.make(Mistake("none"))
    assert here(capfd, "run", "pipelines/base.yaml")[0] == 0
    assert len(case.endpoint.bodies) == 4 and len(case.project.read("runs/base/corpus.jsonl")) == 4


def test_a_file_with_another_ending_is_no_pipeline(case, capfd):
    case.make(Mistake("none"))
    code, _, err = here(capfd, "check", SEEDS)
    assert code == 2 and f"'{SEEDS}' is no pipeline: the name of one ends in .yaml" in err
    case.project.write("base", "a file with the name of a pipeline")
    assert here(capfd, "check", "base")[0] == 0


def test_the_mistakes_are_many_and_told_apart():
    assert len(MISTAKES) == len({m.name for m in MISTAKES}) >= 55


def assert_told(mistake, place, code, out, err):
    told = re.sub(r"\x1b\[[0-9;]*m", "", err).strip()
    assert code == 2, f"exit {code}: {out}\n{err}"
    assert "Traceback" not in err, err
    message = told.split("\nError: ")[-1]  # click puts its usage lines before its own
    assert message and len(message.splitlines()) == 1 and len(message) < 420, err
    at_source = place.startswith("data/")  # a row's place stands behind that of the stage that reads it
    assert place in message if at_source else message.startswith(place), f"expected at {place}: {message}"
    for text in mistake.says:
        assert text in message, f"{text!r} is not in: {message}"


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.name)
def test_a_mistake_is_told_with_place_and_remedy(mistake, case, capfd):
    case.make(mistake)
    code, out, err = here(capfd, "run", YAML, *mistake.args)
    assert not case.endpoint.bodies
    assert not (case.project.path / "runs/base/corpus.jsonl").exists()
    assert_told(mistake, case.expected_place(mistake), code, out, err)


IN_A_PROCESS = (
    "yaml tab", "python object", "not text", "misspelt option of generate", "unknown model", "bad port", "unset variable",
    "misspelt field in prompt", "filter file with a syntax error", "filter file that raises", "bad JSON in line 3",
    "unknown option", "--max-cost-usd without price", "--out under a file",
)  # fmt: skip


@pytest.mark.parametrize("name", IN_A_PROCESS)
def test_a_mistake_ends_the_program_with_code_2(name, case):
    mistake = next(m for m in MISTAKES if m.name == name)
    case.make(mistake)
    done = case.project.cli("run", YAML, *mistake.args, check=2)
    assert not case.endpoint.bodies and not done.stdout
    assert_told(mistake, case.expected_place(mistake), done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "args, says",
    [
        (("run", "bse"), ("no pipeline 'bse'", "did you mean 'base'?")),
        (("run", "pipelines/bse.yaml"), ("no file 'pipelines/bse.yaml'", "did you mean 'base.yaml'?")),
        (("run", "../base"), ("no pipeline '../base'", "did you mean 'base'?")),
        (("run", "data"), ("no pipeline 'data'",)),
        (("check", "bse"), ("no pipeline 'bse'",)),
        (("plan", "bse"), ("no pipeline 'bse'",)),
        (("preview", "bse"), ("no pipeline 'bse'",)),
        (("preview", "base", "--set", "techer.n=1"), ("no model or stage 'techer'",)),
        (("preview", "base", "--out", "data/seeds.jsonl"), ("cannot write to 'data/seeds.jsonl", "--out")),
        (("status", "base"), ("'base' is not a run directory",)),
        (("show", "data"), ("'data' is not a run directory",)),
        (("report", "data"), ("'data' is not a run directory",)),
        (("init", "data"), ("'data' is not empty", "choose a new folder")),
        (("init", "data/seeds.jsonl"), ("cannot write to 'data/seeds.jsonl'", "choose a new folder")),
        (("list", "promts"), ("promts", "prompts")),
        (("runn", "base"), ("No such command 'runn'", "run")),
        (("run",), ("Missing argument 'PIPELINE'",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_in_any_command_is_told(args, says, case, capfd):
    case.make(Mistake("none"))
    code, out, err = here(capfd, *args)
    assert not case.endpoint.bodies
    assert_told(Mistake("", says=says), "", code, out, err)


def test_a_mistake_in_the_names_that_a_run_shows_is_told(case, capfd):
    case.make(
        Mistake(
            "none",
            (
                (YAML, "      - short\n", "      - short: {max_words: 1}\n"),
                ("data/seeds.jsonl", '"number": 0', '"number": 9'),
            ),
        )
    )
    case.endpoint.behave = None  # an answer that is not JSON is dropped as malformed
    assert here(capfd, "run", "base")[0] == 3
    for args, says in (
        (("show", "base", "--filter", "malfomed"), ("nothing was dropped by 'malfomed'", "did you mean 'malformed'?")),
        (("show", "base", "--id", "0123"), ("no record '0123'",)),
        (("show", "base", "--id", ""), ("'' begins the ids of", "give more of it")),
        (("show", "base", "--filter", ""), ("nothing was dropped by ''",)),
        (("export", "base", "--dropped", "--shape", "", "-o", "e"), ("no shape ''",)),
        (("export", "base", "--format", "", "-o", "e"), ("no format ''",)),
        (("run", "base", "--stage", ""), ("no stage ''",)),
        (("run", "base", "--from", ""), ("no stage ''",)),
        (("filter", "data/seeds.jsonl", "--with", "brevty"), ("stage 'filter': there is no filter 'brevty'",)),
        (("show", "bse"), ("'bse' is not a run directory", "did you mean 'base'?")),
        (("run", "base", "--from", "again", "--set", "again.max_tokens=9", "-n", "2"), ("--from again", "has changed since it was run", "run without --from")),
    ):  # fmt: skip
        code, out, err = here(capfd, *args)
        assert_told(Mistake("", says=says), "", code, out, err)


def test_a_mistake_is_a_config_error_from_python(case):
    import distillgen

    case.make(Mistake("none", ((YAML, "model: teacher", "model: techer"),)))
    with pytest.raises(distillgen.ConfigError) as told:
        distillgen.load(YAML)
    assert (str(told.value.path), told.value.line, told.value.exit_code) == (YAML, 20, 2)
    with pytest.raises(distillgen.ConfigError, match="has no option 'limt'; did you mean 'limit'"):
        distillgen.run(YAML, limt=3)
    stages = [{"source": {"path": SEEDS}}, {"generate": {"model": "t", "template": "{{ qestion }}"}}]
    built = {
        "version": 1,
        "models": {"t": {"provider": "openai", "model": "m", "base_url": case.endpoint.url}},
        "stages": stages,
    }
    with pytest.raises(distillgen.ConfigError, match="needs the field 'qestion'.*did you mean 'question'"):
        distillgen.run(built, out="runs/built")
    assert not case.endpoint.bodies


def test_check_lists_unset_variables_and_finds_other_mistakes(case, capfd):
    case.make(Mistake("none", ((YAML, "base_url: URL", "base_url: URL\n    api_key: ${NO_SUCH_KEY}"),)))
    code, out, _ = here(capfd, "check", "base")
    assert code == 0 and "NO_SUCH_KEY is not set" in out
    assert here(capfd, "check", "base", "--set", "teacher.temperature=hot")[0] == 2
