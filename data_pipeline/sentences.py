# SPDX-License-Identifier: Apache-2.0
"""Sentences of running text, by the rules of `sentencex` (Wikimedia) for some 300 languages."""


def split_sentences(paragraph: str, language: str = "en") -> list[str]:
    """Cuts a paragraph into sentences.

    Args:
        paragraph: running text.
        language: ISO 639 code; a language without rules of its own gets those of a relative or of
            English.

    Returns:
        The sentences without the blanks around them; none is empty.
    """
    import sentencex

    return [s for part in sentencex.segment(language, paragraph) if (s := part.strip())]
