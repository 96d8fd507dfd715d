"""What converters of documents find: headings and rows of tables, in files of a guide made by pandoc and
LibreOffice (its PDF has tables without lines), and in a PDF whose tables have lines.

Regenerate: python tests/benchmarks/converters.py NAME
"""

import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.rows.files_of_documents import wells  # noqa: E402

GUIDE = """# Care of Orchards

This guide explains how an orchard of apples is kept over the year.

## Pruning

Prune the trees in late winter, before the buds open. A tree of ten years loses a fifth of its wood in a year.

- Use a sharp saw.
- Clean the blade with alcohol after each tree.

### Tools

| Tool | Use | Price in euros |
|---|---|---|
| Bow saw | branches over 5 cm | 24.50 |
| Loppers | branches | 39.00 |
| Secateurs | twigs | 31.20 |

## Pests

The codling moth lays eggs from May to July. Traps with pheromones show when the moths fly.

## Harvest

| Variety | First day | Yield per tree |
|---|---|---|
| Discovery | 10 August | 35 kg |
| Cox | 20 September | 42 kg |
| Bramley | 5 October | 80 kg |
"""
WELLS = "# Wells\n\n## Levels\n\n| Well | Depth |\n| North | 12.5 |\n| South | 30.1 |\n"


def converter(name):
    """A function from a path to Markdown; each library is imported here, so that its import is measured."""
    if name == "xberg":
        import xberg

        html = xberg.ConversionOptions(extract_metadata=False)
        config = xberg.ExtractionConfig(
            use_cache=False, disable_ocr=True, output_format="markdown", html_options=html
        )

        def by_xberg(path):
            file = xberg.ExtractInput(kind="uri", uri=path)
            return asyncio.run(xberg.extract(file, config=config)).results[0].content

        return by_xberg
    if name == "kreuzberg":
        import kreuzberg

        config = kreuzberg.ExtractionConfig(use_cache=False, output_format="markdown", disable_ocr=True)
        return lambda path: kreuzberg.extract_file_sync(path, config=config).content
    if name == "anydoc":
        import anydoc

        return anydoc.to_markdown
    if name == "markitdown":
        from markitdown import MarkItDown

        every = MarkItDown()
        return lambda path: every.convert(path).markdown
    if name == "pymupdf4llm":
        import pymupdf4llm

        return pymupdf4llm.to_markdown
    if name == "pandoc":
        import pypandoc

        return lambda path: pypandoc.convert_file(path, "gfm")
    if name == "unstructured":
        from unstructured.partition.auto import partition

        return lambda path: "\n".join(
            f"# {part.text}" if part.category == "Title" else part.metadata.text_as_html or part.text
            for part in partition(path, strategy="fast")
        )
    from docling.document_converter import DocumentConverter

    every = DocumentConverter()
    return lambda path: every.convert(path).document.export_to_markdown()


def parts(markdown):
    """The titles of headings, and the cells of rows; not the lines between heading and rows of a table."""
    lines = [line.strip() for line in markdown.splitlines()]
    titles = {line.lstrip("#").strip(" *") for line in lines if line.startswith("#")}
    rows = {tuple(cell.strip(" *") for cell in line.strip("|").split("|")) for line in lines if "|" in line}
    return titles, {row for row in rows if set("".join(row)) - set("-: ")}


def main(name):
    """Print what one converter finds, its time of import and for each file, and its memory."""
    folder = Path(tempfile.mkdtemp())
    (folder / "guide.md").write_text(GUIDE)
    for ending in ("docx", "epub", "html", "rst"):
        command = ["pandoc", "-s", "--metadata", "title=Orchards", "guide.md", "-o", f"guide.{ending}"]
        subprocess.run(command, cwd=folder, check=True)
    office = ["soffice", "--headless", "--convert-to", "pdf", "guide.docx"]
    subprocess.run(office, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (folder / "wells.pdf").write_bytes(wells())
    begin = time.perf_counter()
    convert = converter(name)
    print(f"{name}: import {time.perf_counter() - begin:.1f} s")
    for file in ("guide.pdf", "wells.pdf", "guide.docx", "guide.epub", "guide.html", "guide.rst"):
        titles, rows = parts(WELLS if file == "wells.pdf" else GUIDE)
        begin = time.perf_counter()
        try:
            heads, cells = parts(convert(str(folder / file)))
        except Exception as error:
            print(f"  {file}: {type(error).__name__}: {str(error)[:60]!r}")
            continue
        took = time.perf_counter() - begin
        shares = f"headings {len(titles & heads)}/{len(titles)}, rows {len(rows & cells)}/{len(rows)}"
        print(f"  {file}: {shares}, {took:.2f} s")
    print(f"  memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB")


if __name__ == "__main__":
    main(sys.argv[1])
