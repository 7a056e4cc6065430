# SPDX-License-Identifier: Apache-2.0
"""Makes `wordpiece.json` from the original tokenizer, and compares ours with it on real text.

The original is `tokenization.py` of google-research/bert as published in the package
`bert-tensorflow` 1.0.4; it needs `six` and `absl-py` and runs without TensorFlow.

    pip download --no-deps bert-tensorflow==1.0.4
    unzip -d wheel bert_tensorflow-1.0.4-py2.py3-none-any.whl
    python tests/goldens/make_wordpiece.py wheel VOCABULARIES [TEXT...]

VOCABULARIES is a folder with the published uncased.txt, cased.txt and chinese.txt. A golden keeps
only those entries of a vocabulary that can occur in its strings, in their order: the greedy search
finds the same pieces as with the whole. With TEXT files, 5,000 lines of each and random strings are
cut by both tokenizers and the differences counted.
"""

import functools
import itertools
import json
import random
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.tokenizers import Tokenizer, load_tokenizer
from data_pipeline.wordpiece import WordPieceTokenizer

LOWER_CASE = {"uncased": True, "cased": False, "chinese": True}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LINES_OF_A_FILE = 5000
HARD = [
    "",
    " ",
    "\t\n\r ",
    "The quick brown fox jumps over the lazy dog.",
    "unaffable unwanted running",
    "Hello World! How are you, Mr. O'Neill-Smith?",
    "$1,234.56 + 3^2 = 50% <b>x</b> ~`|{}@#&*_\\/",
    "http://www.example.com/a_b?c=d&e=f%20g user@example.org",
    "It's a don't-care state... “quoted” ‘single’ «guillemets»",
    "dash–en dash—em hyphen‐ minus− soft\u00adhyphen",
    # accents: composed, decomposed, several marks, letters that do not decompose
    "Héllo naïve café Ångström Ñandú",
    "He\u0301llo nai\u0308ve cafe\u0301",
    "Việt Nam Ấp Lục o\u0302\u0323 o\u0323\u0302",
    "Ørsted æsir Łódź straße ẞ ð þ ı İstanbul",
    "\u0301starts with a mark a\u0301\u0302\u0303\u0304\u0305 \u20ddenclosing",
    # case: final sigma, title-case digraph, Cherokee, Georgian, Deseret, mathematical letters
    "ΟΔΟΣ ΣΊΣΥΦΟΣ Σ ΑΣ. ΑΣ\u0301",
    "ǅ ǈ ᎠᎡ ᲐᲑ 𐐀𐐁 𝐀𝐁 ﬁne ＡＢＣ",
    # Chinese, Japanese, Korean, mixed with Latin
    "你好，世界。BERT模型是2018年提出的",
    "简体中文、繁體中文；「引号」（括号）……",
    "日本語のテキスト カタカナひらがな ｶ\uff9e",
    "한국어 문장입니다 \u1112\u1161\u11ab",
    "\uf900\uf901\ufa0e 𠀀𪛟 \U0002f800 㐀䶿 鿿\u3007ㄅ",
    "a中b国c",
    # control, format and odd white space
    "nul\x00in\x00word bell\x07 escape\x1b[31m del\x7f nel\x85here",
    "tab\tnewline\ncarriage\rreturn vertical\x0btab form\x0cfeed unit\x1fsep fs\x1cgs\x1d",
    "no\u00a0break nar\u202frow ideo\u3000graphic ogham\u1680space thin\u2009hair\u200aem\u2003",
    "line\u2028separator paragraph\u2029separator mongolian\u180evowel",
    "zero\u200bwidth joi\u200dner non\u200cjoiner word\u2060joiner bom\ufeff mark \ufeff",
    "replace\ufffdment \ufffd alone \ufffd\ufffd",
    "left\u200eto\u200fright \u202aembedding\u202c \u2066isolate\u2069",
    "noncharacter\uffff\ufdd0 private\ue000use \U000f0000plane unassigned\u0378here",
    # right to left
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
    "\u05d1\u05b0\u05bc\u05e8\u05b5\u05d0\u05e9\u05b4\u05c1\u05d9\u05ea",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645\u060c",
    "\u0643\u064a\u0641\u061f \u0642\u064f\u0631\u0622\u0646 \u0640\u0640",
    # other scripts with marks and their own punctuation
    "नमस\u094dत\u0947 द\u0941न\u093fय\u093e। สว\u0e31สด\u0e35ชาวโลก",
    "Привет, мир! Йог Ёлка їжак",
    "⹃⹏⹒ newer punctuation \u061d ੶ ᙭ ᭽ \U00010f55",
    "\u1dfa\u0898\u1ac0 newer marks a\u1df6b",
    # symbols, emoji with joiners, skin tones, flags, keycaps
    "smile 😀 family 👨\u200d👩\u200d👧 thumb 👍🏽 flag 🇩🇪 1\ufe0f\u20e3 ❤\ufe0f",
    "© ® ™ €5 £5 °C \u00bd \u00b2 ←→ ∑∫∞ ♫ ☃",
    "\u2160\u2161 Ⓐⓐ \u2776 \uff11\uff12 \u0661\u0662",
    # words at the limit of 200 characters
    "x" * 199,
    "x" * 200,
    "x" * 201,
    "é" * 200,
    "é" * 201,
    "e\u0301" * 150,
    "a " + "ab" * 150 + " b",
    "." * 50,
    # special tokens in running text
    "[CLS] the man [MASK] to the store [SEP]",
    "[MASK][MASK] x[MASK]y [mask] [ MASK ] [UNK] [PAD] [unused1] [UNUSED99]",
    "##ing a##b ## # [ ] [[MASK]]",
    "ⓧ unknownableⓧ ༀ༁",
    "half \ud800 surrogate\udfff",
]


def load_original(wheel: str) -> types.ModuleType:
    """Imports `bert/tokenization.py`, with a stand-in for the one TensorFlow call it makes."""
    stub = types.ModuleType("tensorflow.compat.v1")
    vars(stub)["gfile"] = types.SimpleNamespace(
        GFile=functools.partial(open, encoding="utf-8", newline="\n")
    )
    packages = {name: types.ModuleType(name) for name in ("tensorflow", "tensorflow.compat")}
    sys.modules.update(packages | {"tensorflow.compat.v1": stub})
    sys.path.insert(0, wheel)
    from absl import flags
    from bert import tokenization  # type: ignore[import-not-found]

    flags.FLAGS(["make_wordpiece"])
    return tokenization


def possible_pieces(original: Any, texts: list[str]) -> set[str]:
    """Every vocabulary entry that the greedy search could try on these texts."""
    pieces = set(SPECIAL)
    longest = max(map(len, original.vocab))
    for word in {word for text in texts for word in original.basic_tokenizer.tokenize(text)}:
        for start in range(min(len(word), 201)):
            prefix = "##" if start else ""
            pieces.update(prefix + word[start:end] for end in range(start + 1, start + longest + 1))
    return pieces & set(original.vocab)


def make_golden(tokenization: Any, path: Path, lower_case: bool) -> dict[str, Any]:
    """The original's tokens of the hard strings, and the part of the vocabulary they need."""
    original = tokenization.FullTokenizer(str(path), do_lower_case=lower_case)
    needed = possible_pieces(original, HARD)
    return {
        "lower_case": lower_case,
        "vocabulary": [token for token in original.vocab if token in needed],
        "cases": [{"text": text, "tokens": original.tokenize(text)} for text in HARD],
    }


def random_strings(count: int) -> Iterator[str]:
    """Strings of characters from everywhere in Unicode, often near one another."""
    generator = random.Random(1)
    for _ in range(count):
        block = generator.randrange(0x11000) if generator.random() < 0.8 else 0x1F300
        characters = []
        for _ in range(generator.randrange(1, 30)):
            code = generator.choice((block + generator.randrange(64), generator.randrange(32, 127)))
            code = generator.randrange(0x110000) if generator.random() < 0.05 else code
            characters.append(chr(code))
        yield "".join(characters)


def count_differences(original: Any, ours: Tokenizer, texts: list[str]) -> int:
    """Texts on which the tokens differ; prints the first few."""
    different = 0
    for text, ids in zip(texts, ours.encode_batch(texts), strict=True):
        expected = original.tokenize(text)
        found = [ours.tokens[number] for number in ids]
        if found != expected:
            different += 1
            if different < 5:
                print(f"  {text!r}: original {expected}, ours {found}")
    return different


def main() -> None:
    """Writes the goldens; compares where there is text."""
    wheel, vocabularies, *texts = sys.argv[1:]
    tokenization = load_original(wheel)
    goldens = {
        name: make_golden(tokenization, Path(vocabularies) / f"{name}.txt", lower_case)
        for name, lower_case in LOWER_CASE.items()
    }
    for golden in goldens.values():
        tokenizer = WordPieceTokenizer(golden["vocabulary"], lower_case=golden["lower_case"])
        for case in golden["cases"]:
            (ids,) = tokenizer.encode_batch([case["text"]])
            if [tokenizer.tokens[number] for number in ids] != case["tokens"]:
                raise SystemExit(f"ours differs from the original on {case['text']!r}")
    output = Path(__file__).with_name("wordpiece.json")
    lines_of_json = [
        f'"{name}": {{"lower_case": {json.dumps(golden["lower_case"])},\n'
        f'"vocabulary": {json.dumps(golden["vocabulary"])},\n"cases": [\n'
        + ",\n".join(json.dumps(case) for case in golden["cases"])
        + "\n]}"
        for name, golden in goldens.items()
    ]
    output.write_text("{" + ",\n".join(lines_of_json) + "}\n", encoding="utf-8")
    lines: list[str] = []
    for text in texts:
        with open(text, encoding="utf-8") as file:
            lines.extend(line for line in itertools.islice(file, LINES_OF_A_FILE) if line.strip())
    for name, lower_case in LOWER_CASE.items() if texts else ():
        path = Path(vocabularies) / f"{name}.txt"
        original = tokenization.FullTokenizer(str(path), do_lower_case=lower_case)
        ours = load_tokenizer(path, lower_case=lower_case)
        for kind, strings in (("real", lines), ("random", list(random_strings(100_000)))):
            different = count_differences(original, ours, strings)
            print(f"{name}: {len(strings):,} {kind} lines, {different} differ", flush=True)


if __name__ == "__main__":
    main()
