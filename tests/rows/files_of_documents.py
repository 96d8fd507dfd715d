"""Real documents of each kind, made here: a heading, a paragraph and a table."""

import struct
import zipfile
import zlib
from base64 import b64encode
from io import BytesIO

CONTAINER = """<?xml version="1.0"?><container version="1.0"
xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile full-path="book.opf"
media-type="application/oebps-package+xml"/></rootfiles></container>"""
PACKAGE = """<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0"
unique-identifier="id"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Wells</dc:title>
<dc:identifier id="id">x</dc:identifier><dc:language>en</dc:language></metadata><manifest><item id="a"
href="a.xhtml" media-type="application/xhtml+xml"/></manifest><spine><itemref idref="a"/></spine></package>"""
PAGE = """<html xmlns="http://www.w3.org/1999/xhtml"><head><title>Page</title>
<script>alert("evil")</script></head><body><h1>Wells</h1><p>Two wells were measured.</p>
<h2>Levels</h2><table><tr><th>Well</th><th>Depth</th></tr><tr><td>North</td><td>12.5</td></tr>
<tr><td>South</td><td>30.1</td></tr></table></body></html>"""
RST = """Wells
=====

Two wells were measured.

Levels
------

===== =====
Well  Depth
===== =====
North 12.5
South 30.1
===== =====
"""
W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
TYPES = """<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="xml" ContentType="application/xml"/><Default Extension="rels"
ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override
PartName="/word/document.xml" ContentType=
"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>"""
RELATIONS = """<?xml version="1.0"?><Relationships
xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r" Type=
"http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
Target="word/document.xml"/></Relationships>"""


def zipped(files):
    data = BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def docx(body=None):
    def paragraph(text, style=""):
        look = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
        return f"<w:p>{look}<w:r><w:t>{text}</w:t></w:r></w:p>"

    def row(*cells):
        return f"<w:tr>{''.join(f'<w:tc>{paragraph(cell)}</w:tc>' for cell in cells)}</w:tr>"

    if body is None:
        table = f"<w:tbl>{row('Well', 'Depth')}{row('North', '12.5')}{row('South', '30.1')}</w:tbl>"
        body = paragraph("Wells", "Heading1") + paragraph("Two wells were measured.")
        body += paragraph("Levels", "Heading2") + table
    document = f'<?xml version="1.0"?><w:document xmlns:w="{W}"><w:body>{body}</w:body></w:document>'
    return zipped({"[Content_Types].xml": TYPES, "_rels/.rels": RELATIONS, "word/document.xml": document})


def epub():
    files = {"mimetype": "application/epub+zip", "META-INF/container.xml": CONTAINER}
    return zipped({**files, "book.opf": PACKAGE, "a.xhtml": PAGE})


def pdf(pages):
    """A PDF with lines of (size of the font, height on the page, text), and with rows of cells in frames."""
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count %d/Kids[%s]>>"
        % (len(pages), b" ".join(b"%d 0 R" % (4 + 2 * i) for i in range(len(pages)))),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for i, lines in enumerate(pages):
        content = ""
        for size, height, text in lines:
            cells = text if isinstance(text, tuple) else (text,)
            for column, cell in enumerate(cells):
                left = 50 + 120 * column
                content += f"BT /F {size} Tf {left + 4} {height} Td ({cell}) Tj ET\n"
                if isinstance(text, tuple):
                    content += f"{left} {height - 6} 120 20 re S\n"
        page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]"
        page += b"/Resources<</Font<</F 3 0 R>>>>/Contents %d 0 R>>"
        data = content.encode()
        objects += [page % (5 + 2 * i), b"<</Length %d>>stream\n%s\nendstream" % (len(data), data)]
    file, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(file))
        file += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, len(file))
    return file + b"xref\n0 %d\n0000000000 65535 f \n%s%s" % (len(objects) + 1, table, end)


def wells():
    text = [(11, 640 - 14 * i, f"Line {i} of the report says what was measured.") for i in range(6)]
    cells = [
        (11, 500 - 20 * i, row)
        for i, row in enumerate([("Well", "Depth"), ("North", "12.5"), ("South", "30.1")])
    ]
    first = [(24, 720, "Wells"), (11, 680, "Two wells were measured."), *text]
    return pdf([first, [(18, 720, "Levels"), *text, *cells]])


def png(colour, side=8):
    """A picture of one colour."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = side * (b"\0" + side * bytes(colour))
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*parts) for parts in chunks)


def with_pictures(pictures):
    """Documents of three kinds with a paragraph of ten words before each picture."""
    words = " ".join(["word"] * 10)
    numbered = list(enumerate(pictures))
    links = "".join(f'<p>{words}</p><p><img alt="A {i}" src="{{}}"/></p>' for i, _ in numbered)
    data = [f"data:image/png;base64,{b64encode(content).decode()}" for content in pictures]
    page = (
        f'<html xmlns="http://www.w3.org/1999/xhtml"><head><title>P</title></head><body>{links}</body></html>'
    )
    items = "".join(f'<item id="p{i}" href="p{i}.png" media-type="image/png"/>' for i, _ in numbered)
    book = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": CONTAINER,
        "book.opf": PACKAGE.replace("</manifest>", f"{items}</manifest>"),
        "a.xhtml": page.format(*(f"p{i}.png" for i, _ in numbered)),
        **{f"p{i}.png": content for i, content in numbered},
    }
    a = "http://schemas.openxmlformats.org/drawingml/2006"
    r = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    drawing = (
        f"<w:p><w:r><w:t>{words}</w:t></w:r></w:p><w:p><w:r><w:drawing><wp:inline xmlns:wp="
        f'"{a}/wordprocessingDrawing"><wp:extent cx="9525" cy="9525"/><wp:docPr id="{{0}}" name="A {{0}}"/>'
        f'<a:graphic xmlns:a="{a}/main"><a:graphicData uri="{a}/picture"><pic:pic xmlns:pic="{a}/picture">'
        '<pic:nvPicPr><pic:cNvPr id="{0}" name="A {0}"/><pic:cNvPicPr/></pic:nvPicPr><pic:blipFill>'
        f'<a:blip r:embed="p{{0}}" xmlns:r="{r}"/></pic:blipFill><pic:spPr/></pic:pic></a:graphicData>'
        "</a:graphic></wp:inline></w:drawing></w:r></w:p>"
    )
    body = "".join(drawing.format(i) for i, _ in numbered)
    relations = "".join(
        f'<Relationship Id="p{i}" Type="{r}/image" Target="media/p{i}.png"/>' for i, _ in numbered
    )
    head = RELATIONS[: RELATIONS.index("<Relationship ")]
    word = {
        "[Content_Types].xml": TYPES.replace(
            "<Override", '<Default Extension="png" ContentType="image/png"/><Override'
        ),
        "_rels/.rels": RELATIONS,
        "word/document.xml": f'<w:document xmlns:w="{W}"><w:body>{body}</w:body></w:document>',
        "word/_rels/document.xml.rels": f"{head}{relations}</Relationships>",
        **{f"word/media/p{i}.png": content for i, content in numbered},
    }
    return {"p.docx": zipped(word), "p.epub": zipped(book), "p.html": page.format(*data).encode()}
