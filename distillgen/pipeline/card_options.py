"""The options `card` of a pipeline: licence, languages and other facts that a run does not know."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field, model_validator

from distillgen.errors import did_you_mean
from distillgen.pipeline.transparency import ITEMS

LICENSES = frozenset(
    """afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m
    bigscience-bloom-rail-1.0 bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear
    bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0
    cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0
    cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0
    creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 gemma gfdl
    gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3
    llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++ osl-3.0 other pddl
    postgresql unknown unlicense wtfpl zlib""".split()
)
"""The values of `license` that the Hugging Face Hub accepts in a card."""


class Statement(BaseModel):
    """The mapping `card` of a pipeline: what its author states about the data set or student."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    license: str | None = Field(
        None, description="licence of the data set, as the Hub names it: apache-2.0, cc-by-4.0, …, other"
    )
    license_name: str | None = Field(
        None, pattern=r"^[a-z0-9][a-z0-9.-]*$", description="name of the licence, with license: other"
    )
    languages: list[str] = Field([], description="languages of the texts, as ISO 639 codes: [en, de]")
    tasks: list[str] = Field(
        [], description="task categories of the Hub: [question-answering]; default: text-generation"
    )
    source_license: str | None = Field(None, description="licence or terms of the source, in a few words")
    limits: str | None = Field(None, description="known limits of the data, in a sentence")
    citation: str | None = Field(None, description="citation of the implemented paper, as BibTeX")
    self_report: bool = Field(
        False, description="add the transparency self-report, 25 items as far as the run knows them"
    )
    stated: dict[str, str] = Field(
        {}, description="items of the self-report that the run cannot know, each with its evidence; adds it"
    )

    @model_validator(mode="after")
    def _check_names(self) -> Statement:
        if self.license and self.license not in LICENSES:
            near = did_you_mean(self.license, LICENSES)
            raise ValueError(f"the Hub knows no license '{self.license}'{near} (or other, with license_name)")
        if self.license_name and self.license != "other":
            raise ValueError("'license_name' names a license that the Hub does not know; say license: other")
        for name in self.stated.keys() - (keys := {item.key for item in ITEMS}):
            raise ValueError(f"'stated' has no item '{name}'{did_you_mean(name, keys)}")
        for code in self.languages:
            if not re.fullmatch("[a-z]{2,3}", code):
                raise ValueError(f"'{code}' is no language's code; write it as ISO 639 does: en, de, zh")
        return self
