"""What the process does that converts a document to Markdown.

The process runs this file on its own, so the file imports the standard library and the converter only.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

_EMBEDDED = re.compile(r"(!\[[^\]]*\])\(data:[^()\s]*\)")  # a picture as its bytes: of no use in a text


def start(job: Mapping[str, Any]) -> Callable[[int], None]:
    """Return what the process does once it is confined. The converter is imported before."""
    sys.path.append(job["packages"])
    import xberg

    return partial(_convert, xberg, job)


def _convert(xberg: Any, job: Mapping[str, Any], report_fd: int) -> None:
    """Write the Markdown of the pages and the pictures as JSON, or the error. A document without pages is one
    page.
    """
    try:
        report = json.dumps(_contents(xberg, job, sys.stdin.buffer.read())).encode()
        if len(report) > job["most_bytes"]:
            content = "its text and pictures have" if job["pictures"] else "its text has"
            report = json.dumps({"error": f"{content} more than {job['most_bytes'] >> 20} MB"}).encode()
    except MemoryError:
        raise
    except Exception as error:  # the converter raises RuntimeError and its own classes
        report = json.dumps({"error": str(error) or type(error).__name__}).encode()
    with os.fdopen(report_fd, "wb") as file:
        file.write(report)


def _contents(xberg: Any, job: Mapping[str, Any], data: bytes) -> dict[str, list[Any]]:
    with_pictures, images = job["pictures"], {}
    if with_pictures:
        images["images"] = xberg.ImageExtractionConfig(run_ocr_on_images=False)
    config = xberg.ExtractionConfig(
        use_cache=False,
        disable_ocr=True,
        output_format="markdown",
        concurrency=xberg.ConcurrencyConfig(max_threads=1),
        html_options=xberg.ConversionOptions(extract_metadata=False, extract_images=with_pictures),
        pages=xberg.PageConfig(extract_pages=True),
        security_limits=xberg.SecurityLimits(max_pages=job["max_pages"]),
        **images,
    )
    document = xberg.ExtractInput(kind="bytes", bytes=data, mime_type=job["kind"])
    extraction = asyncio.run(xberg.extract(document, config=config))
    if not extraction.results:
        raise ValueError("; ".join(str(error) for error in extraction.errors) or "nothing was read")
    result = extraction.results[0]
    paged = job["paged"] and result.pages
    pages = [page.content for page in result.pages] if paged else [result.content]
    if not with_pictures:
        return {"pages": [_EMBEDDED.sub(r"\1()", page) for page in pages], "pictures": []}
    pictures = [picture for picture in result.images or () if picture.data and not picture.is_mask]
    return {
        "pages": pages,
        "pictures": [
            {"format": picture.format, "data": base64.b64encode(picture.data).decode()}
            for picture in pictures
        ],
    }
