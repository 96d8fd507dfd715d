"""The pages of stages, models, filters, objectives, losses and prompts, from the catalog."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from distillgen.flow.stage import Stage, stage_class
from distillgen.inference.capabilities import PROVIDERS
from distillgen.inference.sampling import Sampling
from distillgen.inference.spec import Spec
from distillgen.networks.spec import Head, Reading
from distillgen.pipeline import catalog
from distillgen.pipeline.load import Top
from distillgen.project import Project
from distillgen.prompting.prompt import Front
from distillgen.training.part import Loss, Part
from writer.markdown import Entry, contents, fence, option_list, paragraphs, plain, without

EXAMPLES = Path(__file__).parents[1] / "examples" / "pipelines"
SHIPPED = Project(Path("/nowhere"))
"""A project without content of its own: only what ships."""


def stages() -> Iterator[str]:
    """Yield the page of the stages, with the keys of a pipeline file first."""
    entries = catalog.stages(SHIPPED)
    yield "# Stages"
    yield (
        "A pipeline is a list of stages. Each stage takes the records of the stage before it and "
        "passes records on. A stage that drops a record says why. `distillgen help STAGE` prints the "
        "same on a terminal."
    )
    yield contents(entries)
    yield "## The pipeline file"
    yield "The keys at the top of a pipeline file."
    yield option_list(catalog.options(Top))
    yield "## Sampling options"
    yield (
        "Stages that ask a model take these options, as do the entries of [`models`](models.md) and "
        "the front matter of [prompts](prompts.md). An option of the stage wins over the model's, and"
        " the model's over the prompt's. An option that is not given anywhere is not sent, and the "
        "endpoint's own default holds."
    )
    yield option_list(catalog.options(Sampling))
    yield "## The option name"
    yield "Every stage takes this option."
    yield option_list({"name": entries[0]["options"]["name"]})
    for entry in entries:
        yield from stage(entry)


def stage(entry: Entry) -> Iterator[str]:
    """Yield the section of one stage: its text, what it reads and writes, its options, and an example."""
    declaration = stage_class(entry["name"], SHIPPED)
    yield f"## {entry['name']}"
    yield paragraphs(entry["text"])
    about = [f"- Reads: {plain(entry['reads'])}.", f"- Writes: {plain(entry['writes'])}."]
    if scope := SCOPES.get(getattr(declaration, "scope", "")):
        about.append(f"- Scope: {scope}.")
    yield "\n".join(about)
    options = without(entry["options"], Stage)
    samples = issubclass(declaration, Sampling)
    options = without(options, Sampling) if samples else options
    if options:
        yield "Options, besides the [sampling options](#sampling-options):" if samples else "Options:"
        yield option_list(options)
    example = (EXAMPLES / f"{entry['name']}.yaml").read_text(encoding="utf-8")
    comment, _, pipeline = example.partition("\n")
    yield f"Example: {comment.lstrip('# ')}"
    yield fence("yaml", pipeline)


SCOPES = {
    "row": "`row`, one record at a time",
    "group": "`group`, the records that belong together",
    "set": "`set`, all records of the run",
}


def models() -> Iterator[str]:
    """Yield the page of the providers."""
    entries = catalog.providers(SHIPPED)
    yield "# Models"
    yield (
        "`models` in a pipeline names the models that its stages ask. The option `provider` of an "
        "entry says which of these kinds of teacher it is. `distillgen help PROVIDER` prints the same"
        " on a terminal."
    )
    yield fence("yaml", MODELS)
    yield contents(entries)
    yield "## Capabilities"
    yield (
        "Every model answers. Some stages and options need more, and `check` says so before anything "
        "is asked:"
    )
    yield "\n".join(f"- `{capability}`: {providers}" for capability, providers in PROVIDERS.items())
    yield "## Options of every provider"
    yield "Besides these, every provider takes the [sampling options](stages.md#sampling-options)."
    yield option_list(without(catalog.options(Spec), Sampling))
    for entry in entries:
        yield f"## {entry['name']}"
        yield paragraphs(entry["text"])
        options = without(entry["options"], Spec)
        yield option_list(options) if options else "It has no options of its own."
    for entry in catalog.preset_list(SHIPPED):
        if entry["name"] not in {provider["name"] for provider in entries}:
            yield f"## {entry['name']}"
            options_text = entry["about"].partition(" fills in ")[2].removesuffix(".")
            yield f"A preset, which is short for `{options_text}`."


MODELS = """\
models:
  teacher: {provider: openai, model: gpt-4.1-mini, api_key: "${OPENAI_API_KEY}", temperature: 0.7}
  small: {provider: embedded, model: qwen2.5-coder-1.5b-instruct}
  served:
    provider: openai
    server: vllm
    model: Qwen/Qwen2.5-7B-Instruct
    base_url: http://localhost:8000/v1
"""


def filters() -> Iterator[str]:
    """Yield the page of the filters."""
    entries = catalog.filters(SHIPPED)
    yield "# Filters"
    yield (
        "A filter measures something about a record and decides whether to keep it. The stage "
        "[`filter`](stages.md#filter) takes a list of filters; the stage "
        "[`evaluate`](stages.md#evaluate) takes them as metrics. `distillgen help FILTER` prints the "
        "same on a terminal."
    )
    yield contents(entries)
    for entry in entries:
        yield f"## {entry['name']}"
        yield paragraphs(entry["text"])
        if entry["source"]:
            yield f"Source: {plain(entry['source'])}."
        yield option_list(entry["options"]) if entry["options"] else "It has no options."


def objectives() -> Iterator[str]:
    """Yield the page of the objectives."""
    entries = catalog.objectives(SHIPPED)
    yield "# Objectives"
    yield (
        "An objective says how a student learns. The stage [`train`](stages.md#train) names it as "
        "`objective`, and takes its options beside its own. `distillgen help OBJECTIVE` prints the "
        "same on a terminal."
    )
    yield contents(entries)
    for entry in entries:
        yield f"## {entry['name']}"
        yield paragraphs(entry["text"])
        yield option_list(entry["options"])


def losses() -> Iterator[str]:
    """Yield the page of the losses, the weights, the bodies and the scores."""
    yield "# Losses and networks"
    yield (
        "The objective [`distil`](objectives.md#distil) lists losses, and weights that multiply them, and a "
        "chance may draw the rows of each epoch; a network is a body with heads. "
        "[Students and signals](../concepts/students.md) explains them. "
        "`distillgen help LOSS` prints the same on a terminal."
    )
    entries = catalog.losses(SHIPPED)
    for title, kind in (("Losses", "loss"), ("Weights", "weight"), ("Chances", "chance")):
        chosen = [entry for entry in entries if entry["gives"] == kind]
        if not chosen:
            continue
        yield f"## {title}"
        shared = Loss if kind == "loss" else Part
        if kind == "loss":
            yield "Every loss that learns from a teacher takes these options:"
            yield option_list(catalog.options(Loss))
        for entry in chosen:
            yield f"### {entry['name']}"
            yield paragraphs(entry["text"])
            if entry["source"]:
                yield f"Source: {plain(entry['source'])}."
            options = without(entry["options"], shared)
            yield option_list(options) if options else "It has no options of its own."
    yield "## Bodies"
    yield (
        "A student that is a network is a mapping: the name of a body with its first option, and beside it "
        "the body's other options, and `heads`, `read` and `inputs`."
    )
    for entry in catalog.bodies(SHIPPED):
        yield f"### {entry['name']}"
        yield paragraphs(entry["text"])
        yield option_list(entry["options"]) if entry["options"] else "It has no options."
    yield "## Scores"
    yield (
        "A stage [`search`](stages.md#search) ranks untrained networks by a score, or records it with each "
        "trial. An entry is a name, or the name with options, among them `name`, what trials call it."
    )
    for entry in catalog.scores(SHIPPED):
        yield f"### {entry['name']}"
        yield paragraphs(entry["text"])
        if entry["source"]:
            yield f"Source: {plain(entry['source'])}."
        yield option_list(entry["options"]) if entry["options"] else "It has no options."
    yield "## Heads, and how they are read"
    yield "`heads` maps a name to its options; a list holds names alone."
    yield option_list(catalog.options(Head))
    yield "`read` maps the name of a head to its share and temperature; a number is a share."
    yield option_list(catalog.options(Reading))


def prompts() -> Iterator[str]:
    """Yield the page of the prompts, with the keys of the front matter first."""
    yield "# Prompts"
    yield (
        "A prompt file holds front matter in YAML and a Jinja template. "
        "[Prompts](../concepts/prompts.md) explains them. `distillgen help PROMPT` prints what a "
        "prompt reads and gives."
    )
    yield "## Front matter"
    front = catalog.options(Front)
    front["sampling"] = {name: value for name, value in front["sampling"].items() if name != "options"}
    yield "`sampling` takes the [sampling options](stages.md#sampling-options)."
    yield option_list(front)
    yield "## Prompts that ship"
    yield "The stage [`generate`](stages.md#generate) takes a prompt by its name."
    for entry in catalog.prompts(SHIPPED):
        yield f"### {entry['name']}"
        reads = ", ".join(f"`{name}`" for name in entry["inputs"]) or "no field"
        about = entry["about"]
        yield f"{plain(about[0].upper() + about[1:])}."
        yield f"- Reads: {reads}.\n- Form of the answer: {entry['output']}."
