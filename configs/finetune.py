# SPDX-License-Identifier: Apache-2.0
r"""Fine-tuning recipes: the nine GLUE tasks, SWAG, SQuAD, CoNLL, and the user's own files.

    python -m bert_jax.finetune --config=configs/finetune.py:mrpc --init_from=MODEL --workdir=DIR
    python -m bert_jax.finetune --config=configs/finetune.py:files --init_from=MODEL \
        --workdir=DIR --config.data.train=train.tsv --config.data.validation=dev.tsv \
        --config.data.text_a=sentence --config.data.label=label

Tasks: cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli (TensorFlow Datasets), swag (its CSV
files), squad1 and squad2 (the JSON of SQuAD 1.1 and 2.0), conll (words and tags in columns), files
(TSV, CSV or JSONL; `--config.task=regression` for numbers). Length, batch, epochs and
rate are those of google-research/bert's README for `run_classifier.py`; the paper chose the rate
among 5e-5, 4e-5, 3e-5 and 2e-5 on the dev set (section 4.1). The words of the prediction files are
those of gluebenchmark.com.
"""

from typing import Any

from ml_collections import ConfigDict

_SENTENCES = dict(text_a="sentence1", text_b="sentence2")
_ENTAILMENT = "entailment,not_entailment"
# Columns, labels in the order of the head's outputs, their words in prediction files, figures.
_GLUE: dict[str, tuple[str, dict[str, str], str, str, str]] = {
    "cola": ("CoLA", dict(text_a="sentence"), "unacceptable,acceptable", "0,1", "matthews"),
    "sst2": ("SST-2", dict(text_a="sentence"), "negative,positive", "0,1", "accuracy"),
    "mrpc": ("MRPC", _SENTENCES, "not_equivalent,equivalent", "0,1", "accuracy,f1"),
    "qqp": (
        "QQP",
        dict(text_a="question1", text_b="question2"),
        "not_duplicate,duplicate",
        "0,1",
        "accuracy,f1",
    ),
    "stsb": ("STS-B", _SENTENCES, "", "", "pearson,spearman"),
    "mnli": (
        "MNLI",
        dict(text_a="premise", text_b="hypothesis"),
        "entailment,neutral,contradiction",
        "",
        "accuracy",
    ),
    "qnli": ("QNLI", dict(text_a="question", text_b="sentence"), _ENTAILMENT, "", "accuracy"),
    "rte": ("RTE", _SENTENCES, _ENTAILMENT, "", "accuracy"),
    "wnli": ("WNLI", _SENTENCES, "not_entailment,entailment", "0,1", "accuracy"),
}


def get_config(task: str = "files") -> ConfigDict:
    """The recipe for a task."""
    if task in _GLUE:
        return _glue(task)
    if task == "swag":
        return _swag()
    if task in ("squad1", "squad2"):
        return _squad(impossible=task == "squad2")
    if task == "conll":
        return _conll()
    if task == "files":
        return _files()
    others = "swag, squad1, squad2, conll or files"
    raise ValueError(f"no recipe for {task!r}: use {', '.join(_GLUE)}, {others}")


def _recipe(name: str, task: str, metrics: str, data: dict[str, str]) -> ConfigDict:
    return ConfigDict(
        dict(
            name=f"finetune-{name}",
            task=task,
            seed=0,
            seeds=1,  # more run one after another, and summary.json holds median and spread
            length=128,
            batch_size=32,
            epochs=3.0,
            frozen_encoder=False,  # True: only pooler and head learn
            random_weights=False,  # True: the same model untrained, to see what pre-training gives
            data=data | dict(id=data.get("id", ""), tfds_data_dir=""),
            model=dict(
                hidden_dropout=0.1,
                attention_dropout=0.1,
                head_dropout=0.1,
                compute_dtype="float32",  # "bfloat16" is faster on accelerators
                unroll=1,
                remat=False,
            ),
            optimizer=dict(
                name="bert_adam",
                learning_rate=2e-5,
                warmup_share=0.1,
                beta1=0.9,
                beta2=0.999,
                epsilon=1e-6,
                weight_decay=0.01,
                clip_norm=1.0,
                layer_decay=1.0,  # below 1 the rate falls layer by layer towards the input
            ),
            evaluation=dict(metrics=metrics, every=0, batch_size=64),  # every 0: each epoch
            checkpoint=dict(every=1000, keep_last=1),
            predictions=dict(files="", labels=""),
            mesh=dict(data=-1, fsdp=1, tensor=1, slices=1, shard_optimizer=False),
            log_every=50,
        )
    )


def _glue(task: str) -> ConfigDict:
    name, columns, labels, words, metrics = _GLUE[task]
    data = dict(
        source=f"glue/{task}", train="train", validation="validation", test="test", label="label"
    )
    files = f"{name}.tsv"
    if task == "mnli":
        data |= dict(
            validation="validation_matched,validation_mismatched",
            test="test_matched,test_mismatched",
        )
        files = "MNLI-m.tsv,MNLI-mm.tsv"
    kind = "regression" if task == "stsb" else "classification"
    config = _recipe(task, kind, metrics, data | columns | dict(labels=labels, id="idx"))
    config.predictions.update(files=files, labels=words)
    return config


def _swag() -> ConfigDict:
    """Section 4.4 of the paper: batch 16, rate 2e-5. Give data.train and data.validation."""
    config = _recipe(
        "swag",
        "multiple_choice",
        "accuracy",
        dict(
            source="files",
            train="",
            validation="",
            test="",
            text_a="sent1",
            text_b="sent2",
            choices="ending0,ending1,ending2,ending3",
            label="label",
            labels="0,1,2,3",
        ),
    )
    config.batch_size = 16
    return config


def _squad(impossible: bool) -> ConfigDict:
    """Sections 4.2 and 4.3 of the paper; length and stride of `run_squad.py`."""
    version = "2.0" if impossible else "1.1"
    dev = f"dev-v{version}.json"
    config = _recipe(
        "squad2" if impossible else "squad1",
        "question_answering",
        "f1,exact" if impossible else "f1,exact_match",
        # Also as a test file, so that predictions for it are written.
        dict(source="files", train=f"train-v{version}.json", validation=dev, test=dev),
    )
    config.update(
        length=384, batch_size=48 if impossible else 32, epochs=2.0 if impossible else 3.0
    )
    config.optimizer.learning_rate = 5e-5
    config.model.head_dropout = 0.0
    config.question_answering = dict(
        doc_stride=128,
        max_query_length=64,
        n_best=20,
        max_answer_length=30,
        impossible=impossible,
        null_threshold=0.0,  # SQuAD 2.0: take best_f1_thresh of the dev file
    )
    return config


def _conll() -> ConfigDict:
    """Section 5.3 of the paper; the rate is the middle of appendix A.3. Give the cased model."""
    data = dict(
        source="files",
        train="train.txt",
        validation="valid.txt",
        test="test.txt",
        text_a="first",  # columns: first, last, or a number from 1
        label="last",
        labels="",
    )
    config = _recipe("conll", "tagging", "f1,precision,recall", data)
    config.optimizer.learning_rate = 3e-5
    return config


def _files() -> ConfigDict:
    data: dict[str, Any] = dict(
        source="files",
        train="",
        validation="",
        test="",
        text_a="text",
        text_b="",
        label="label",
        labels="",  # empty: what stands in the training file, in alphabetical order
    )
    return _recipe("files", "classification", "accuracy", data)
