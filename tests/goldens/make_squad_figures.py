# SPDX-License-Identifier: Apache-2.0
"""Makes squad_figures.json: what the official scripts of SQuAD say of hard predictions.

    python tests/goldens/make_squad_figures.py evaluate-v1.1.py evaluate-v2.0.py

The scripts are those of rajpurkar.github.io/SQuAD-explorer; they are under another licence and
therefore not kept here.
"""

import importlib.util
import json
import random
import sys
from pathlib import Path

ANSWERS = ["The ship", "a", "1895", "it's", "the Café", "New York City", "York", "--", "an apple a"]
SAID = [*ANSWERS, "ship.", "SHIP ship", "the", "", "york new", "1,895", "apple"]


def load(path):
    spec = importlib.util.spec_from_file_location("script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def case(draw, impossible):
    answers = {
        str(n): draw.sample(
            ANSWERS, 0 if impossible and draw.random() < 0.3 else draw.randint(1, 3)
        )
        for n in range(60)
    }
    return {
        "answers": answers,
        "predictions": {
            number: draw.choice(right if right and draw.random() < 0.6 else SAID)
            for number, right in answers.items()
        },
        "null_odds": {number: round(draw.uniform(-5, 5), 1) for number in answers},
    }


def dataset(answers):
    questions = [
        {"id": number, "answers": [{"text": text} for text in right]}
        for number, right in answers.items()
    ]
    return [{"paragraphs": [{"qas": questions}]}]


def figures1(script, made):
    return script.evaluate(dataset(made["answers"]), made["predictions"])


def figures2(script, made):
    data = dataset(made["answers"])
    said, odds = made["predictions"], made["null_odds"]
    exact, f1 = script.get_raw_scores(data, said)
    answerable = script.make_qid_to_has_ans(data)
    found = dict(script.make_eval_dict(exact, f1))
    for prefix, kind in (("HasAns", True), ("NoAns", False)):
        numbers = [number for number, value in answerable.items() if value is kind]
        script.merge_eval(found, script.make_eval_dict(exact, f1, numbers), prefix)
    script.find_all_best_thresh(found, said, exact, f1, odds, answerable)
    return {name: value for name, value in found.items() if not name.endswith("total")}


def main():
    first, second = map(load, sys.argv[1:3])
    draw = random.Random(0)
    made1 = [case(draw, impossible=False) for _ in range(3)]
    made2 = [case(draw, impossible=True) for _ in range(5)]
    content = {
        "1.1": [made | {"figures": figures1(first, made)} for made in made1],
        "2.0": [made | {"figures": figures2(second, made)} for made in made2],
    }
    path = Path(__file__).with_name("squad_figures.json")
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
