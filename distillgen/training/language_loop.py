"""A training of a language model from its parts: student, teachers and rows become a Loop. It needs torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from distillgen.errors import ConfigError
from distillgen.training import students
from distillgen.training.assembly import HELD_OUT, TRAIN, Lesson
from distillgen.training.dialogue import lengths, split
from distillgen.training.inputs import Prepared, TrainingInputs
from distillgen.training.language import Language, collator
from distillgen.training.learner import Learner, Loop, Teachers
from distillgen.training.part import Loss, Weight
from distillgen.training.rows import Assessment, Row, RowSelection, fit, uncut
from distillgen.training.signals import RecordedTokens
from distillgen.training.step import STUDENT
from distillgen.training.token_rows import ids_by_text, refuse_renormalised, tokenised

Sequences: TypeAlias = Callable[[list[Row]], list[Row]]


def language_loop(lesson: Lesson, inputs: TrainingInputs) -> Prepared:
    """Return the loop of a language model that learns the answers of dialogues."""
    tokenizer, model, max_length = inputs.load(AutoModelForCausalLM)
    recorded = {name: RecordedTokens() for name in lesson.recorded()}
    rows = _rows(inputs.rows, tokenizer, max_length, recorded=bool(recorded))
    live: dict[str, Any] = {}
    signals = [part.teachers().values() for part in (*lesson.losses, *lesson.weights.values())]
    layers = any("layers" in values for values in signals)
    heads = {name: (source.model or name, source.head) for name, source in lesson.teachers.items()}
    for source in lesson.teachers.values():
        if source.model:
            live[source.model] = _teacher(source.model, inputs, tokenizer, model, layers)
    student = Language(inputs.adapted(model, "CAUSAL_LM"), tokenizer, layers=layers)
    teachers = Teachers(live, dict(recorded), heads, lesson.exchanged() if inputs.shuffled else ())
    return token_loop(student, rows, lesson.losses, lesson.weights, teachers, inputs)


def token_loop(
    student: Language,
    rows: RowSelection,
    losses: Sequence[Loss],
    weights: Mapping[str, Weight],
    teachers: Teachers,
    inputs: TrainingInputs,
    sequences: Sequences = list,
) -> Prepared:
    """Return the loop of a language model over rows with `input_ids`, `attention_mask` and `labels`.

    The losses and weights see all columns of the rows but `id`, as `collator` puts them together.
    `sequences` takes the rows of a batch apart, if a row has several sequences of tokens.
    """
    ids = rows.parts[TRAIN]["id"] if "id" in rows.parts[TRAIN].column_names else ()
    parts = {name: _numbered(part) for name, part in rows.parts.items()}
    learner = Learner(
        {STUDENT: student}, losses, weights, teachers, seed=inputs.arguments["seed"], ids=list(ids)
    )
    collated = collator(student.tokenizer.pad_token_id)
    loop = Loop(
        learner,
        TrainingArguments(**inputs.arguments, remove_unused_columns=False),
        train_dataset=parts[TRAIN],
        eval_dataset=parts.get(HELD_OUT),
        data_collator=lambda batch: collated(sequences(batch)),
    )
    return Prepared(loop, rows.counts, student=student.model)


def _numbered(part: Any) -> Any:
    """Return rows of numbers alone, with their places in a column `row`."""
    return part.remove_columns([n for n in ("id",) if n in part.column_names]).add_column(
        "row", range(len(part))
    )


def _teacher(name: str, inputs: TrainingInputs, tokenizer: Any, student: Any, layers: bool) -> Language:
    """Return a frozen language model. Raise ConfigError if it lacks some of the student's tokens."""
    folder = str(inputs.models.get(name) or students.local(name, inputs.project.root) or name)
    try:
        other = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=student.dtype)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the teacher '{name}' cannot be loaded: {error}") from error
    mine, theirs, ids = tokenizer.get_vocab(), other.get_vocab(), None
    if mine != theirs:
        numbers = {number: theirs[token] for token, number in mine.items() if token in theirs}
        size = len(student.get_output_embeddings().weight)
        ids = [numbers[i] for i in range(size) if i in numbers]
        if len(ids) < size:
            raise ConfigError(
                f"the teacher '{name}' has other tokens than the student; record its answers with logprobs "
                "in a stage, or begin both with models of one family"
            )
    language = Language(model, other, layers=layers, ids=ids)
    language.requires_grad_(False).eval()
    return language


def _rows(rows: RowSelection, tokenizer: Any, max_length: int, *, recorded: bool) -> RowSelection:
    """Return rows of ids, with the recorded tokens of a teacher if there are some."""
    if not recorded:

        def encoded(row: Row) -> Row:
            before, after = split(tokenizer, row["prompt"], row["completion"], row.get("tools"))
            return {"id": row["id"], **id_columns(before, after, max_length)}

        def assess(row: Row) -> Assessment:
            parts = lengths(tokenizer, row["prompt"], row["completion"], tools=row.get("tools"))
            return fit(*parts, max_length)

        return rows.select(assess).map(encoded)
    refuse_renormalised(rows.parts[TRAIN])
    ids = ids_by_text(tokenizer)

    def in_vocabulary(row: Row) -> Assessment:
        missing = any(token not in ids for token in row["tokens"])
        return Assessment("a token of the teacher is not in the student's vocabulary" if missing else "")

    chosen = rows.select(in_vocabulary)
    most = 1 + max(len(top) for part in chosen.parts.values() for row in part for top in row["top_tokens"])
    chosen = chosen.map(tokenised, tokenizer=tokenizer, ids=ids, most=most, max_length=max_length)
    chosen = chosen.select(lambda row: fit(row["prompt_tokens"], row["whole_tokens"], max_length))
    extra = ["prompt_tokens", "whole_tokens"]
    parts = {name: part.remove_columns(extra) for name, part in chosen.parts.items()}
    return RowSelection(parts, chosen.counts)


def id_columns(before: Sequence[int], after: Sequence[int], max_length: int) -> Row:
    """Return the columns of a prompt and a completion, cut at `max_length`; the completion is learnt."""
    ids = [*before, *after][:max_length]
    return {
        "input_ids": ids,
        "attention_mask": [1] * len(ids),
        "labels": ([-100] * len(before) + [*after])[:max_length],
    }


def columns(tokenizer: Any, prompt: Any, completion: Any, max_length: int, *, both: bool) -> Row:
    """Return the columns of a prompt and its completion, for a decoder or, if `both`, an encoder-decoder."""
    if not both:
        return id_columns(*split(tokenizer, prompt, completion), max_length)
    ids, labels = tokenizer(prompt)["input_ids"], tokenizer(text_target=completion)["input_ids"]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


def assessment(
    tokenizer: Any, dialogues: Sequence[tuple[Any, Any]], max_length: int, *, both: bool
) -> Assessment:
    """Assess prompts with their completions by the longest of them, for either kind of student."""
    if both:
        texts = [text for dialogue in dialogues for text in dialogue]
        return uncut(max(map(len, tokenizer(texts)["input_ids"])), max_length)
    tokens = [lengths(tokenizer, *dialogue) for dialogue in dialogues]
    return fit(max(prompt for prompt, _ in tokens), max(total for _, total in tokens), max_length)
