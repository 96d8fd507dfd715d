"""Students that are made of another model: what fits, and the folder of the new student."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from distillgen.errors import ConfigError
from distillgen.state_files import whole_folder
from distillgen.training.excerpt import check_depth, write_excerpt
from distillgen.training.experts import check_family, check_width, write_experts
from distillgen.training.options import Excerpt, Experts, Tiny
from distillgen.training.students import Outline


def outline_after(
    name: str, outline: Outline, surgeries: Sequence[Experts | Excerpt], tiny: Tiny | None
) -> Outline:
    """Return the outline of a student after surgeries, of which the last makes it of the student `name`.

    Raise ConfigError if one does not fit.
    """
    for surgery in surgeries:
        if isinstance(surgery, Excerpt):
            if outline.kind not in ("causal", None):
                raise ConfigError(f"student: of: '{name}' is no decoder, of which layers and tokens are kept")
            if outline.depth:
                check_depth(outline.depth, surgery.every)
                outline = replace(outline, depth=outline.depth // surgery.every)
            continue
        if outline.experts:
            raise ConfigError(f"student: of: '{name}' has experts already; go on with student: {name}")
        if outline.family:
            check_family(outline.family)
            check_width(tiny.feed_forward if tiny else 0)
        outline = replace(outline, experts=True)
    return outline


def write_student(
    surgery: Experts | Excerpt, model: str, folder: Path, texts: Iterable[str], revision: str | None
) -> Path:
    """Write the student that a surgery makes of a model to a folder; the training rows have the texts."""
    if isinstance(surgery, Excerpt):
        return whole_folder(folder, lambda new: write_excerpt(model, new, surgery, texts, revision))
    return whole_folder(folder, lambda new: write_experts(model, new, surgery, revision))
