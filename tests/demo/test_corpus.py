# SPDX-License-Identifier: Apache-2.0
"""The bundled texts are what their README says, in the format that they claim."""

import hashlib
import pathlib
import re

import pytest

CORPUS = pathlib.Path(__file__).parents[2] / "demo" / "corpus"
README = (CORPUS / "README.md").read_text(encoding="utf-8")
ROW = re.compile(
    r"^\| (\S+\.txt) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| `([0-9a-f]{64})` \|$", re.M
)
ROWS = {match[1]: match.groups()[1:] for match in ROW.finditer(README)}


def test_every_text_is_in_both_tables() -> None:
    texts = sorted(path.name for path in CORPUS.glob("*.txt"))
    assert sorted(ROWS) == texts
    sources = re.findall(r"^\| (\S+\.txt) \| [^|]*[a-z]{4}", README, re.M)
    assert sorted(sources) == texts


@pytest.mark.parametrize("name", sorted(ROWS))
def test_counts_and_checksum(name: str) -> None:
    data = (CORPUS / name).read_bytes()
    text = data.decode("utf-8")
    documents = text.removesuffix("\n\n").split("\n\n")
    sentences = [sentence for document in documents for sentence in document.split("\n")]
    measured = (len(documents), len(sentences), len(text.split()), len(data))
    assert (*map(str, measured), hashlib.sha256(data).hexdigest()) == ROWS[name]
    assert all(len(document.split("\n")) >= 2 for document in documents)
    assert all(sentence == " ".join(sentence.split()) != "" for sentence in sentences)
