# SPDX-License-Identifier: Apache-2.0
"""A whole corpus at once, for tests; the pipeline itself reads it piece by piece."""

from data_pipeline.corpora import CorpusOptions, Piece, find_sources
from data_pipeline.documents import read_piece


def read_corpus(corpus: CorpusOptions) -> list[list[str]]:
    """The sentences of each document of all sources, in order."""
    return [
        document.sentences
        for source in find_sources(corpus)
        for document in read_piece(Piece(source), corpus)
    ]
