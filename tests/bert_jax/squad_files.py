# SPDX-License-Identifier: Apache-2.0
"""Files in SQuAD's layout that a tiny model learns within seconds."""

import json

import numpy as np


def write_squad(path, count, *, seed=0, impossible=False, labelled=True):
    """Paragraphs such as "is was not ship (c). it was is": the answer is the only letter."""
    random = np.random.default_rng(seed)
    paragraphs = []
    for number in range(count):
        words = [str(word) for word in random.choice(["is", "was", "it", "not"], 10)]
        none = impossible and random.random() < 0.4
        letter = str(random.choice([*"abcdefgh"]))
        if not none:
            words.insert(int(random.integers(11)), f"ship ({letter}).")
        context = " ".join(words)
        answers = [] if none else [{"text": letter, "answer_start": context.index("(") + 1}]
        qa = {"id": f"q{number}", "question": "the ship", "is_impossible": none}
        if labelled:
            qa["answers"] = answers
        paragraphs.append({"context": context, "qas": [qa]})
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}), "utf-8")
    return path
