# SPDX-License-Identifier: Apache-2.0
"""Trains a vocabulary on text and writes a tokenizer directory.

    python -m data_pipeline.vocab --input='corpus/*.txt.gz' --size=30522 --output=runs/tokenizer

The same text and options give the same vocabulary, byte for byte, on any number of threads.
WordPiece is trained by merging the most frequent pairs (Hugging Face `tokenizers`); the original
program was never published. SentencePiece is the unigram model of its own library.
"""

import collections
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from absl import flags

from data_pipeline.corpora import CorpusOptions, Source, Unit, cut_units, find_sources
from data_pipeline.documents import read_piece
from data_pipeline.errors import DataError, UsageError, run_command
from data_pipeline.output import NewDirectory, disk_errors
from data_pipeline.progress import Progress
from data_pipeline.random_bits import bits_of
from data_pipeline.sentencepieces import SentencePieceTokenizer
from data_pipeline.special_tokens import SPECIAL_NAMES
from data_pipeline.tokenizers import Tokenizer
from data_pipeline.wordpiece import MAX_WORD_CHARACTERS, BasicTokenizer, WordPieceTokenizer

KINDS = ("wordpiece", "sentencepiece")
MIN_SIZE = 128  # five special tokens and room for an alphabet and its continuing forms
_READ_TIMES = 4
_COMPRESSED = 4  # text is about four times as long as its gzip or zstd file
_THREADS = 8  # fixed, because SentencePiece sums its counts thread by thread
_COVERAGE = 0.99995  # of all characters in the text
_REPEATS = 1000


def sample_sentences(corpus: CorpusOptions, sample_bytes: int) -> Iterator[str]:
    """Sentences of documents spread over the whole input, about `sample_bytes` of them at most.

    Of a huge corpus only stretches are read, evenly spread, with four times the text that is
    wanted. Which of their documents are taken depends on the documents' text only.
    """
    sources = find_sources(corpus)
    share = sample_bytes / max(sum(map(_text_bytes, sources)), 1)
    every = cut_units(sources, corpus.tfds_data_dir)
    units = _spread(every, _READ_TIMES * share)
    share *= sum(unit.bytes for unit in every) / max(sum(unit.bytes for unit in units), 1)
    progress = Progress("vocab", sum(unit.bytes for unit in units))
    taken = read = 0
    for unit in units:
        for document in (d for piece in unit.pieces for d in read_piece(piece, corpus)):
            text = "\n".join(document.sentences).encode()
            if bits_of(text) / (1 << 64) < share:
                taken += len(text)
                yield from document.sentences
            if taken > 2 * sample_bytes:  # compressed much better than expected
                break
        read += unit.bytes
        progress.update(read, f"{taken / 1e6:,.1f} MB taken")
        if taken > 2 * sample_bytes:
            break
    progress.finish(f"{taken / 1e6:,.1f} MB taken")


def _spread(units: Sequence[Unit], share: float) -> list[Unit]:
    """A share of the units, at even distances; at least one of them, if there are any."""
    wanted = min(len(units), math.ceil(share * len(units)))
    return [units[(2 * number + 1) * len(units) // (2 * wanted)] for number in range(wanted)]


def _text_bytes(source: Source) -> int:
    compressed = source.name.endswith((".gz", ".zst"))
    return source.bytes * (_COMPRESSED if compressed else 1)


def train_wordpiece(
    sentences: Iterable[str], size: int, *, lower_case: bool, strip_accents: bool | None
) -> WordPieceTokenizer:
    """Trains a WordPiece vocabulary with the special tokens at the ids 0 to 4.

    Args:
        sentences: the text.
        size: entries wanted; fewer come out of a small text.
        lower_case: lower-cases the text first, as the tokenizer will.
        strip_accents: drops accents; None does what `lower_case` says.

    Raises:
        DataError: no text.
    """
    from tokenizers import Tokenizer as HuggingFaceTokenizer
    from tokenizers import models, pre_tokenizers, trainers

    strip_accents = lower_case if strip_accents is None else strip_accents
    basic = BasicTokenizer(lower_case, strip_accents, chinese_characters=True)
    words: collections.Counter[str] = collections.Counter()
    for sentence in sentences:
        words.update(word for word in basic(sentence) if len(word) <= MAX_WORD_CHARACTERS)
    if not words:
        raise DataError("there is no text to train a vocabulary on")
    # The trainer numbers the continuing forms of characters in the random order of a hash map and
    # breaks ties by number: numbered here, as if they were special tokens, it has no choice left.
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[*SPECIAL_NAMES, *_alphabet(words, size // 2)],
        limit_alphabet=0,
        show_progress=False,
    )
    model = HuggingFaceTokenizer(models.WordPiece(unk_token="[UNK]"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model.train_from_iterator(_repeat(words), trainer)
    ids = model.get_vocab()
    tokens = sorted(ids, key=ids.__getitem__)
    return WordPieceTokenizer(tokens, lower_case=lower_case, strip_accents=strip_accents)


def _alphabet(words: Mapping[str, int], entries: int) -> list[str]:
    """The characters of the vocabulary, alone and, where they occur so, continuing a word.

    The most frequent ones are taken until they make up all but 5 of 100,000 characters, but no
    more than `entries`. Chinese characters are words of their own and need no second form.
    """
    counts: collections.Counter[str] = collections.Counter()
    continuing: set[str] = set()
    for word, count in words.items():
        for character in word:
            counts[character] += count
        continuing.update(word[1:])
    needed = _COVERAGE * counts.total()
    covered = 0
    alphabet: list[str] = []
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        forms = [character] + ["##" + character] * (character in continuing)
        if covered >= needed or len(alphabet) + len(forms) > entries:
            break
        alphabet += forms
        covered += count
    return sorted(alphabet, key=lambda form: (len(form), form))


def _repeat(words: Mapping[str, int]) -> Iterator[str]:
    """Each word as often as it was counted; the trainer takes text only."""
    for word, count in words.items():
        for start in range(0, count, _REPEATS):
            yield " ".join([word] * min(_REPEATS, count - start))


def train_sentencepiece(sentences: Iterable[str], size: int, *, lower_case: bool) -> bytes:
    """Trains a SentencePiece unigram model with the special tokens at the ids 0 to 4.

    Args:
        sentences: the text.
        size: pieces wanted; fewer come out of a small text.
        lower_case: the model folds case (NFKC in any case).

    Returns:
        The content of the `.model` file.

    Raises:
        DataError: no text.
    """
    import sentencepiece

    # Errors of an iterator would come back through C++ as something else.
    sentences = list(sentences)
    model = io.BytesIO()
    pad, unknown, *others = SPECIAL_NAMES
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="unigram",
            vocab_size=size,
            hard_vocab_limit=False,
            normalization_rule_name="nmt_nfkc_cf" if lower_case else "nmt_nfkc",
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            pad_piece=pad,
            unk_piece=unknown,
            control_symbols=others,
            max_sentence_length=1 << 16,
            num_threads=_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise DataError(f"SentencePiece cannot train on this text: {error}") from error
    return model.getvalue()


def train(
    corpus: CorpusOptions,
    output: Path,
    *,
    kind: str,
    size: int,
    lower_case: bool,
    strip_accents: bool | None,
    sample_bytes: int,
) -> Tokenizer:
    """Trains a vocabulary and writes the tokenizer directory `output`.

    Raises:
        UserError: anything wrong with input, options or output; nothing is left behind then.
    """
    sentences = sample_sentences(corpus, sample_bytes)
    with NewDirectory(output) as directory, disk_errors(directory.temporary):
        tokenizer: Tokenizer
        if kind == "wordpiece":
            tokenizer = train_wordpiece(
                sentences, size, lower_case=lower_case, strip_accents=strip_accents
            )
        else:
            model = directory.temporary / "trained.model"
            model.write_bytes(train_sentencepiece(sentences, size, lower_case=lower_case))
            tokenizer = SentencePieceTokenizer(model)
            model.unlink()
        tokenizer.save(directory.temporary)
        directory.commit()
    return tokenizer


def main(arguments: Sequence[str]) -> None:
    """The command."""
    del arguments
    values = flags.FLAGS
    for name in ("input", "output"):
        if not values[name].value:
            raise UsageError(f"--{name} is missing")
    if values.kind == "sentencepiece" and values.strip_accents is not None:
        raise UsageError("--strip_accents goes with --kind=wordpiece only")
    tokenizer = train(
        CorpusOptions.from_flags(),
        Path(values.output),
        kind=values.kind,
        size=values.size,
        lower_case=values.lower_case,
        strip_accents=values.strip_accents,
        sample_bytes=round(values.sample_megabytes * 1e6),
    )
    fewer = "" if tokenizer.vocab_size == values.size else f", the text gives no {values.size:,}"
    print(f"{values.output}: {tokenizer.kind}, {tokenizer.vocab_size:,} tokens{fewer}")


if __name__ == "__main__":
    CorpusOptions.define_flags()
    flags.DEFINE_enum("kind", "wordpiece", KINDS, "Kind of tokenizer.")
    flags.DEFINE_integer("size", 30522, "Tokens in the vocabulary.", lower_bound=MIN_SIZE)
    flags.DEFINE_string("output", None, "Directory of the tokenizer to make.")
    flags.DEFINE_bool("lower_case", True, "Lower-case text, as the uncased BERT models.")
    flags.DEFINE_bool("strip_accents", None, "Drop accents; by default if lower-casing.")
    flags.DEFINE_float("sample_megabytes", 200, "Text to train on, at most.", lower_bound=0.001)
    run_command(main)
