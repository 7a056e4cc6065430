# SPDX-License-Identifier: Apache-2.0
"""Makes `original_examples.json`: examples that the original's own code makes of small documents.

    git clone https://github.com/google-research/bert
    python tests/goldens/make_original_examples.py bert

The package `bert-tensorflow` 1.0.4 holds an older version, without whole-word masking, that makes
the same of the other cases: give its folder `bert` and they are compared with the stored file
instead. TensorFlow is not needed, stand-ins take its place.
"""

import importlib.util
import json
import random
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

SEED = 12345
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY += [f"w{number}" for number in range(30)] + [f"##p{number}" for number in range(15)]
CASES: dict[str, dict[str, Any]] = {
    "usual": {"length": 32, "passes": 2, "documents": (8, 12, 9)},
    "short": {"length": 24, "passes": 2, "documents": (5, 10, 6), "short_probability": 1.0},
    "long_sentences": {"length": 16, "passes": 3, "documents": (4, 4, 60)},
    "one_document": {"length": 24, "passes": 6, "documents": (1, 20, 8)},
    "tiny_documents": {"length": 20, "passes": 3, "documents": (10, 1, 3)},
    "whole_word": {"length": 40, "passes": 2, "documents": (8, 12, 9), "whole_word": True},
}
DEFAULTS = {"short_probability": 0.1, "whole_word": False}


class Tokenizer:
    """Words are tokens already."""

    vocab = {token: number for number, token in enumerate(VOCABULARY)}

    def tokenize(self, line: str) -> list[str]:
        return line.split()


def load_original(folder: Path) -> Any:
    """Imports `create_pretraining_data.py` with stand-ins for TensorFlow and for `tokenization`."""
    values = types.SimpleNamespace(do_whole_word_mask=False)
    flags = types.SimpleNamespace(FLAGS=values)
    for kind in ("string", "bool", "integer", "float"):
        setattr(flags, f"DEFINE_{kind}", lambda *arguments: None)
    tensorflow: Any = types.ModuleType("tensorflow")
    tensorflow.compat = tensorflow.v1 = tensorflow
    tensorflow.flags = flags
    tensorflow.gfile = types.SimpleNamespace(GFile=open)
    tokenization: Any = types.ModuleType("tokenization")
    tokenization.convert_to_unicode = str
    package: Any = types.ModuleType("bert")
    package.tokenization = tokenization
    sys.modules.update(
        {"tensorflow": tensorflow, "tensorflow.compat": tensorflow, "bert": package}
        | {"tensorflow.compat.v1": tensorflow, "tokenization": tokenization}
    )
    path = folder / "create_pretraining_data.py"
    spec = importlib.util.spec_from_file_location("create_pretraining_data", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_documents(
    rng: random.Random, documents: int, sentences: int, tokens: int
) -> list[list[list[int]]]:
    """Documents of half to twice as many sentences, sentences of one to twice as many tokens."""
    return [
        [
            rng.choices(range(5, len(VOCABULARY)), k=rng.randint(1, 2 * tokens - 1))
            for _ in range(rng.randint((sentences + 1) // 2, 2 * sentences - 1))
        ]
        for _ in range(documents)
    ]


def original_case(original: Any, documents: list[list[list[int]]], case: dict[str, Any]) -> Any:
    """The original's examples of these documents, tokens as ids."""
    lines = (
        "\n".join(" ".join(VOCABULARY[token] for token in sentence) for sentence in document)
        for document in documents
    )
    original.FLAGS.do_whole_word_mask = case["whole_word"]
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("\n\n".join(lines))
        file.flush()
        instances = original.create_training_instances(
            [file.name],
            Tokenizer(),
            case["length"],
            case["passes"],
            case["short_probability"],
            0.15,
            -(-15 * case["length"] // 100),
            random.Random(SEED),
        )
    return [
        {
            "tokens": [Tokenizer.vocab[token] for token in instance.tokens],
            "a_end": instance.segment_ids.count(0),
            "positions": instance.masked_lm_positions,
            "labels": [Tokenizer.vocab[token] for token in instance.masked_lm_labels],
            "is_random": instance.is_random_next,
        }
        for instance in instances
    ]


def main(folder: str) -> None:
    """Writes the golden, or compares it with a version of the original that lacks whole words."""
    original = load_original(Path(folder))
    whole_words = "do_whole_word_mask" in (Path(folder) / "create_pretraining_data.py").read_text()
    golden = {}
    for name, settings in CASES.items():
        case = DEFAULTS | settings
        case["documents"] = make_documents(random.Random(name), *settings["documents"])
        if whole_words or not case["whole_word"]:
            golden[name] = case | {"examples": original_case(original, case["documents"], case)}
    path = Path(__file__).with_name("original_examples.json")
    if whole_words:
        content = {"seed": SEED, "vocabulary": VOCABULARY, "cases": golden}
        path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
        return
    stored = json.loads(path.read_text(encoding="utf-8"))["cases"]
    for name, case in golden.items():
        print(f"{name}: {'same' if stored[name] == case else 'DIFFERS'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
