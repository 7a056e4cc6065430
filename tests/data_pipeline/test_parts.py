# SPDX-License-Identifier: Apache-2.0
"""Parts are made in bounded memory, whatever the size of documents."""

import pytest

from data_pipeline import parts
from data_pipeline.documents import Document


@pytest.mark.parametrize("sentences", [[], ["a"], ["a"] * 50, ["a" * 3000]])
def test_chunks_are_limited_by_what_they_take(
    monkeypatch: pytest.MonkeyPatch, sentences: list[str]
) -> None:
    monkeypatch.setattr(parts, "_CHUNK_CHARACTERS", 2000)
    documents = [Document(sentences) for _ in range(200)]
    chunks = list(parts._chunks(documents))
    assert [document for chunk in chunks for document in chunk] == documents
    assert len(chunks) > 1
    # 32 for each object, and one document more than fits.
    limit = 2 + 2000 // (32 + sum(len(sentence) + 32 for sentence in sentences))
    assert max(map(len, chunks)) <= limit
