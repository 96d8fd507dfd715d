"""critic: keep the records that a model trained on a person's labels judges valid.

West et al. 2021, Symbolic Knowledge Distillation, section 3.3. The labels are split into three parts: the
stage trains the model on the first, chooses the threshold on the second, and reports recall and precision on
the third. (The authors choose their threshold on the average of validation and test, so their choice
uses the test labels.)
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any, Literal, TypeAlias

import orjson
from pydantic import Field, model_validator

from distillgen.algorithms.calibration import (
    Point,
    Scored,
    assured,
    calibration_error,
    curve,
    reach,
    realised,
)
from distillgen.errors import ConfigError, did_you_mean
from distillgen.extras import need
from distillgen.flow.ordered import in_order
from distillgen.flow.record_template import RecordTemplate
from distillgen.flow.stage import CHUNK, CheckContext, Chunk, Chunks, Job, Stage
from distillgen.inference.outcome import Outcome
from distillgen.local_models.critic_model import (
    Classifier,
    Encoder,
    Linear,
    Renderings,
    Scoring,
    averaged,
    features_of,
)
from distillgen.project import Project
from distillgen.prompting.prompt import Pick, drawn
from distillgen.record import META, SCORES, Record, Unrenderable, digest, dumps, item_of, text_of
from distillgen.rows.jsonl import read_rows
from distillgen.state_files import replace_bytes

log = logging.getLogger("distillgen")

VERSION = 1  # version of the training; a new version trains stored critics again
LONGEST = 20_000  # characters of a text that the critic reads
UNSURE = 0.4  # width of the recall interval above which the stage warns
PARTS = ("train", "validation", "test")

Labels: TypeAlias = dict[str, list[tuple[Renderings, bool]]]
"""The renderings of each labelled row and whether it is valid, by part."""


class Critic(Stage):
    """Train a critic on labels, and drop the records that it judges invalid.

    The critic gives each record a probability of being valid. The stage chooses a threshold on held-out
    labels, so that recall or precision reaches its target, and drops records that are not above it. The
    score `<name>` is the probability. The figures of the training are in `critic-<name>.json` and in the
    report. The stage keeps the trained critic in `critics/` beside the ledger, so a changed target neither
    trains nor scores again.
    """

    kind = "critic"
    scope = "row"
    reads = "the file `labels`; the fields in `fields` or in `template`"
    writes = (
        "the score `<name>`, `critic-<name>.json`, and the trained critic in `critics/` beside the "
        "ledger; drops records"
    )
    selects = True

    labels: str = Field(description="JSONL file of labelled rows, as `distillgen label` writes it")
    label: str = Field(
        "label", description="field of a labelled row with its label; rows whose label is null are left out"
    )
    valid_above: float = Field(
        0.0, description="labels above this are valid: 0 for labels 0 and 1, or -2 to 2; 3 for grades 1 to 5"
    )
    fields: list[str] | None = Field(
        None, min_length=1, description="fields that the critic reads, joined in this order"
    )
    template: str | None = Field(
        None, description="template of the text that the critic reads, instead of fields"
    )
    vary: dict[str, list[Any] | Pick] = Field(
        {}, description="nuisance variables of the template and their values"
    )
    passes: int = Field(
        5,
        ge=1,
        description="with vary: number of renderings, each with new draws, whose probabilities are averaged",
    )
    target_recall: float | None = Field(
        None, gt=0, le=1, description="share of the valid records to keep, on average"
    )
    target_precision: float | None = Field(
        None, gt=0, le=1, description="share of the kept records that must be valid"
    )
    confidence: float = Field(
        0.8, ge=0.5, lt=1, description="probability with which target_precision holds for new records"
    )
    group: str | None = Field(
        None,
        description="rows with the same value in this field stay in one part of the split; default: rows "
        "with the same text or question",
    )
    validation: float = Field(
        0.2, gt=0, lt=1, description="share of the labels on which the threshold is chosen"
    )
    test: float = Field(0.2, gt=0, lt=1, description="share of the labels that only the report uses")
    seed: int = Field(0, description="seed of the split, of the nuisance draws and of an encoder's training")
    features: Literal["embeddings", "words"] = Field(
        "embeddings",
        description="what the critic learns from: embeddings, or words (hashed n-grams, which need only "
        "scikit-learn)",
    )
    embedder: str = Field(
        "minilm",
        description="model of the embeddings: minilm, a local folder, or a name on the Hugging Face Hub",
    )
    encoder: str | None = Field(
        None,
        description="transformer to fine-tune instead: a local folder, or a name on the Hugging Face Hub",
    )
    epochs: int = Field(5, ge=1, description="number of times that an encoder's training sees every label")
    learning_rate: float = Field(2e-5, gt=0, description="largest learning rate of an encoder's training")
    batch_size: int = Field(16, ge=1, description="number of labels in a batch of an encoder's training")

    @model_validator(mode="after")
    def _choices(self) -> Critic:
        if (self.fields is None) == (self.template is None):
            raise ValueError("give either 'fields' or 'template', the text that the critic reads")
        if (self.target_recall is None) == (self.target_precision is None):
            raise ValueError("give either 'target_recall' or 'target_precision'")
        if self.target_precision is None and self.confidence != Critic.model_fields["confidence"].default:
            raise ValueError(
                "'confidence' belongs to 'target_precision'; 'target_recall' is reached on average"
            )
        if self.vary and self.template is None:
            raise ValueError("'vary' redraws variables of a 'template': give one")
        if self.validation + self.test >= 1:
            raise ValueError("'validation' and 'test' leave nothing to train on")
        meant = {"features": not self.encoder, "embedder": not self.encoder and self.features == "embeddings"}
        meant |= dict.fromkeys(("epochs", "learning_rate", "batch_size"), self.encoder is not None)
        for option, has_meaning in meant.items():
            if not has_meaning and getattr(self, option) != Critic.model_fields[option].default:
                choice = "an encoder" if self.encoder else f"features: {self.features} and no encoder"
                raise ValueError(f"'{option}' has no meaning with {choice}")
        return self

    def scores(self) -> list[str]:
        """Return the name of the probability that a record is valid."""
        return [self.name]

    def files(self, project: Project) -> dict[str, Path]:
        """Return the file of labels."""
        return {self.labels: project.file(self.labels)}

    def check(self, context: CheckContext) -> frozenset[str]:
        """Raise ConfigError if a field or package is missing, or a part lacks valid or invalid labels."""
        for name in self.fields or ():
            context.need(name, "'fields'")
        if self.template is not None:
            text = RecordTemplate(self.template)
            if SCORES in text.used and SCORES not in context.fields:
                raise ConfigError("'template' reads scores, which the labelled rows do not have")
            text.check(replace(context, fields=context.fields | set(self.vary)), "'template'")
            for name, values in self.vary.items():
                if name not in text.used:
                    raise ConfigError(f"vary: the template does not use '{name}'")
                if isinstance(values, Pick) and values.n > len(values.of):
                    raise ConfigError(f"vary: '{name}' wants {values.n} of {len(values.of)} values")
        self.read(context.project)
        if self.encoder:
            need("an encoder", "torch", "transformers")
        elif self.features == "words":
            need("features: words", "sklearn")
        else:
            need("features: embeddings", "sentence_transformers", "sklearn")
        return context.fields

    def read(self, project: Project) -> Labels:
        """Return the labels by part. If a record has two labels, the later one counts. Raise ConfigError."""
        path, texts = project.file(self.labels), self._reader()
        rows = dict[Any, tuple[str, Renderings, bool] | None]()
        for line, row in read_rows(path):
            if isinstance(row, str):
                raise ConfigError(row, path=path, line=line)
            if self.label not in row:
                raise ConfigError(
                    f"the row has no '{self.label}'{did_you_mean(self.label, row)}", path=path, line=line
                )
            label, meta = row[self.label], row.get(META)
            same = str(meta["id"]) if isinstance(meta, dict) and "id" in meta else line
            if label is None:
                rows[same] = None
                continue
            if not isinstance(label, int | float):
                raise ConfigError(
                    f"the label {str(label)[:40]!r} is not a number: 1 or 0, or grades", path=path, line=line
                )
            try:
                if self.group is not None and self.group not in row:
                    raise Unrenderable(f"there is no field '{self.group}'{did_you_mean(self.group, row)}")
                rendered = texts(row)
            except Unrenderable as error:
                raise ConfigError(
                    f"the labelled row cannot be used: {error}", path=path, line=line
                ) from error
            together = digest(
                [self.seed, self._item(row, rendered) if self.group is None else row[self.group]], 8
            )
            rows[same] = self._part(int(together, 16) / 16**8), rendered, label > self.valid_above
        parts: Labels = {name: [] for name in PARTS}
        for part, rendered, valid in filter(None, rows.values()):
            parts[part].append((rendered, valid))
        for name, part_labels in parts.items():
            if len({valid for _, valid in part_labels}) < 2:
                total, valid_labels = sum(map(len, parts.values())), sum(valid for _, valid in part_labels)
                counts = f"{len(part_labels)} of {total} labels, {valid_labels} of them valid"
                remedy = "label more, make the part larger, or give another group, valid_above or seed"
                message = f"the {name} part of '{self.labels}' has {counts}; both kinds are needed: {remedy}"
                raise ConfigError(message, path=path)
        return parts

    def _item(self, row: Mapping[str, Any], rendered: Renderings) -> Any:
        """Return a key of the row. Rows with the same key, a text or a question, stay in one part."""
        names = (
            self.fields
            if self.fields is not None
            else [name for name in RecordTemplate(self.template or "").used if name in row]
        )
        item_fields = {name: row[name] for name in names}
        item = item_of(item_fields)
        return rendered if item == digest(item_fields) else item

    def _part(self, share: float) -> str:
        """Return the part for a hash between 0 and 1. New labels never move old ones."""
        return (
            "test" if share < self.test else "validation" if share < self.test + self.validation else "train"
        )

    def _reader(self) -> Callable[[Mapping[str, Any]], Renderings]:
        """Return a function that renders a row once for each pass. It raises Unrenderable."""
        text = None if self.template is None else RecordTemplate(self.template)

        def joined(fields: Mapping[str, Any]) -> Renderings:
            if missing := [name for name in self.fields or () if name not in fields]:
                raise Unrenderable(f"there is no field '{missing[0]}'{did_you_mean(missing[0], fields)}")
            values = [fields[name] for name in self.fields or ()]
            if None in values:
                raise Unrenderable(f"'{(self.fields or [])[values.index(None)]}' is null")
            return (_plain(" | ".join(map(text_of, values))),)

        def rendered(fields: Mapping[str, Any]) -> Renderings:
            assert text
            fields_digest = digest({name: fields[name] for name in text.used if name in fields})
            chances = [
                random.Random(f"{self.seed}/{fields_digest}/{i}")
                for i in range(self.passes if self.vary else 1)
            ]
            return tuple(
                _plain(text.render(Record("", {**fields, **drawn(self.vary, chance)}))) for chance in chances
            )

        return rendered if text else joined

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Train the critic, then score the records and decide."""
        texts, labels, stop = self._reader(), self.read(job.context.project), Event()
        place = job.services.ledger.place
        kept = (
            (place.parent if isinstance(place, Path) else job.context.directory)
            / "critics"
            / self.fingerprint(labels)
        )
        try:
            scored = await asyncio.to_thread(self._trained, labels, kept, stop)
        except asyncio.CancelledError:
            stop.set()
            raise
        threshold = self._report(labels, scored, job)
        scoring = Scoring(cache(lambda: self._load(kept)), job.services.ledger)

        def decided(record: Record, probability: float) -> Chunk:
            record = record.scored({self.name: probability})
            reason = f"probability {probability:.3f} <= {threshold:.3f}"
            return [record if probability > threshold else record.drop(self.name, self.name, reason)]

        async def later(record: Record, rendered: Renderings, key: bytes) -> Chunk:
            return decided(record, await scoring.probability(rendered, key))

        def begin(chunk: Chunk) -> Iterable[Outcome[Chunk]]:
            todo: list[tuple[Record, Renderings, bytes]] = []
            for record in chunk:
                try:
                    rendered = () if record.dropped else texts(record.fields)
                    todo.append((record, rendered, digest([kept.name, rendered], 32).encode()))
                except Unrenderable as error:
                    todo.append((record.drop(self.name, "unrenderable", str(error)), (), b""))
            stored_scores = job.services.ledger.find_scores(
                [key for record, _, key in todo if not record.dropped]
            )
            for record, rendered, key in todo:
                if record.dropped:
                    yield Outcome.of([record])
                elif key in stored_scores:
                    yield Outcome.of(decided(record, stored_scores[key]))
                else:
                    yield Outcome.start(later(record, rendered, key))

        try:
            async for judged in in_order(chunks, begin, window=lambda: 2 * CHUNK):
                yield judged
        finally:
            scoring.stop()

    def fingerprint(self, labels: Labels) -> str:
        """Return a digest of everything that the trained critic depends on, which excludes the target."""
        how: list[Any] = [self.features, self.embedder if self.features == "embeddings" else ""]
        if self.encoder:
            how = [self.encoder, self.epochs, self.learning_rate, self.batch_size, self.seed]
        return digest([VERSION, how, labels])

    def _trained(self, labels: Labels, folder: Path, stop: Event) -> dict[str, Scored]:
        """Return probabilities of the held-out labels. Train a critic first if `folder` holds none."""
        if not folder.exists():
            train, validation = labels["train"], labels["validation"]
            classifier: Classifier
            if self.encoder:
                classifier = Encoder.fit(
                    self.encoder,
                    train,
                    validation,
                    epochs=self.epochs,
                    learning_rate=self.learning_rate,
                    batch_size=self.batch_size,
                    seed=self.seed,
                    stop=stop,
                )
            else:
                classifier = Linear.fit(features_of(self.features, self.embedder), train, validation)
            # another run may train the same critic: the first result is kept
            partial = folder.with_name(f"{folder.name}.{os.getpid()}")
            partial.mkdir(parents=True, exist_ok=True)
            classifier.save(partial)
            scored = {
                part: list(
                    zip(
                        averaged(classifier, [texts for texts, _ in part_labels]),
                        [valid for _, valid in part_labels],
                        strict=True,
                    )
                )
                for part, part_labels in labels.items()
                if part != "train"
            }
            (partial / "held-out.json").write_bytes(dumps(scored))
            try:
                partial.rename(folder)
            except OSError:
                if not folder.exists():
                    raise
                shutil.rmtree(partial)
            log.info("%s: trained on %d labels", self.name, len(train))
        kept: dict[str, Scored] = orjson.loads((folder / "held-out.json").read_bytes())
        return kept

    def _load(self, folder: Path) -> Classifier:
        return (
            Encoder.load(str(folder))
            if self.encoder
            else Linear.load(features_of(self.features, self.embedder), folder)
        )

    def _report(self, labels: Labels, scored: Mapping[str, Scored], job: Job) -> float:
        """Choose the threshold on the validation labels, write the report, and return the threshold."""
        labelled = scored["validation"]
        chosen = reach(
            labelled, recall=self.target_recall, precision=self.target_precision, confidence=self.confidence
        )
        if chosen is None:
            sure = {point: assured(point, len(labelled), self.confidence) for point in curve(labelled)}
            best = max(sure, key=lambda point: sure[point])
            raise ConfigError(
                f"stage '{self.name}': no threshold assures a precision of {self.target_precision:.0%} on "
                f"the {len(labelled)} validation labels; the best one assures {sure[best]:.0%} with a "
                f"confidence of {self.confidence:.0%} (measured: precision {best.precision:.0%}, recall "
                f"{best.recall:.0%}); label more, or lower target_precision or confidence"
            )
        report: dict[str, Any] = {
            "critic": self.name,
            "labels": self.labels,
            "model": self.encoder or ("words" if self.features == "words" else self.embedder),
            "counts": {
                part: {"rows": len(part_labels), "valid": sum(valid for _, valid in part_labels)}
                for part, part_labels in labels.items()
            },
            "target": {"recall": self.target_recall}
            if self.target_recall
            else {"precision": self.target_precision},
            "confidence": self.confidence if self.target_precision else None,
            "threshold": chosen.threshold,
            **{
                part: {**realised(part_labels, chosen.threshold), "ece": calibration_error(part_labels)}
                for part, part_labels in scored.items()
            },
            "points": list(Point._fields),
            "curves": {part: list(map(list, curve(part_labels))) for part, part_labels in scored.items()},
        }
        replace_bytes(
            job.context.directory / f"critic-{self.name}.json", dumps(report, sort_keys=False) + b"\n"
        )
        log.info("%s: keeps a probability above %.4f", self.name, chosen.threshold)
        low, high = (report["test"]["intervals"]["recall"][end] for end in ("low", "high"))
        if high - low > UNSURE:
            message = "%s: recall is between %s, by %d valid test labels: label more"
            interval = f"{low:.0%} and {high:.0%}"
            log.warning(message, self.name, interval, report["counts"]["test"]["valid"])
        return chosen.threshold


def _plain(text: str) -> str:
    """Return the text without lone surrogates, and cut to LONGEST."""
    return text[:LONGEST].encode("utf-8", "replace").decode()
