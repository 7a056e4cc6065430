# SPDX-License-Identifier: Apache-2.0
"""`run_squad.py` of google-research/bert without TensorFlow, as a reference for tests.

The functions keep the original's names, steps and order (commit eedf571, Apache-2.0, Copyright 2018
The Google AI Language Team Authors); flags became arguments, logging is left out.
"""

import collections
import math

DocSpan = collections.namedtuple("DocSpan", ["start", "length"])


def read_squad_examples(input_data, is_training, version_2_with_negative):
    def is_whitespace(c):
        return c in " \t\r\n" or ord(c) == 0x202F

    examples = []
    for entry in input_data:
        for paragraph in entry["paragraphs"]:
            doc_tokens = []
            char_to_word_offset = []
            prev_is_whitespace = True
            for c in paragraph["context"]:
                if is_whitespace(c):
                    prev_is_whitespace = True
                else:
                    if prev_is_whitespace:
                        doc_tokens.append(c)
                    else:
                        doc_tokens[-1] += c
                    prev_is_whitespace = False
                char_to_word_offset.append(len(doc_tokens) - 1)
            for qa in paragraph["qas"]:
                start_position = end_position = None
                orig_answer_text = None
                is_impossible = False
                if is_training:
                    if version_2_with_negative:
                        is_impossible = qa["is_impossible"]
                    if not is_impossible:
                        answer = qa["answers"][0]
                        orig_answer_text = answer["text"]
                        answer_offset = answer["answer_start"]
                        answer_length = len(orig_answer_text)
                        start_position = char_to_word_offset[answer_offset]
                        end_position = char_to_word_offset[answer_offset + answer_length - 1]
                        actual_text = " ".join(doc_tokens[start_position : (end_position + 1)])
                        cleaned_answer_text = " ".join(orig_answer_text.split())
                        if actual_text.find(cleaned_answer_text) == -1:
                            continue
                    else:
                        start_position = -1
                        end_position = -1
                        orig_answer_text = ""
                examples.append(
                    {
                        "qas_id": qa["id"],
                        "question_text": qa["question"],
                        "doc_tokens": doc_tokens,
                        "orig_answer_text": orig_answer_text,
                        "start_position": start_position,
                        "end_position": end_position,
                        "is_impossible": is_impossible,
                    }
                )
    return examples


def convert_examples_to_features(
    examples, tokenize, max_seq_length, doc_stride, max_query_length, is_training
):
    features = []
    for example_index, example in enumerate(examples):
        query_tokens = tokenize(example["question_text"])[:max_query_length]
        tok_to_orig_index = []
        orig_to_tok_index = []
        all_doc_tokens = []
        for i, token in enumerate(example["doc_tokens"]):
            orig_to_tok_index.append(len(all_doc_tokens))
            for sub_token in tokenize(token):
                tok_to_orig_index.append(i)
                all_doc_tokens.append(sub_token)
        tok_start_position = tok_end_position = -1
        if is_training and not example["is_impossible"]:
            tok_start_position = orig_to_tok_index[example["start_position"]]
            if example["end_position"] < len(example["doc_tokens"]) - 1:
                tok_end_position = orig_to_tok_index[example["end_position"] + 1] - 1
            else:
                tok_end_position = len(all_doc_tokens) - 1
            tok_start_position, tok_end_position = _improve_answer_span(
                all_doc_tokens,
                tok_start_position,
                tok_end_position,
                tokenize,
                example["orig_answer_text"],
            )
        max_tokens_for_doc = max_seq_length - len(query_tokens) - 3
        doc_spans = []
        start_offset = 0
        while start_offset < len(all_doc_tokens):
            length = len(all_doc_tokens) - start_offset
            length = min(length, max_tokens_for_doc)
            doc_spans.append(DocSpan(start=start_offset, length=length))
            if start_offset + length == len(all_doc_tokens):
                break
            start_offset += min(length, doc_stride)
        for doc_span_index, doc_span in enumerate(doc_spans):
            token_to_orig_map = {}
            token_is_max_context = {}
            tokens = ["[CLS]", *query_tokens, "[SEP]"]
            segment_ids = [0] * len(tokens)
            for i in range(doc_span.length):
                split_token_index = doc_span.start + i
                token_to_orig_map[len(tokens)] = tok_to_orig_index[split_token_index]
                token_is_max_context[len(tokens)] = _check_is_max_context(
                    doc_spans, doc_span_index, split_token_index
                )
                tokens.append(all_doc_tokens[split_token_index])
                segment_ids.append(1)
            tokens.append("[SEP]")
            segment_ids.append(1)
            start_position = end_position = 0
            if is_training and not example["is_impossible"]:
                doc_end = doc_span.start + doc_span.length - 1
                if tok_start_position >= doc_span.start and tok_end_position <= doc_end:
                    doc_offset = len(query_tokens) + 2
                    start_position = tok_start_position - doc_span.start + doc_offset
                    end_position = tok_end_position - doc_span.start + doc_offset
            features.append(
                {
                    "example_index": example_index,
                    "tokens": tokens,
                    "segment_ids": segment_ids,
                    "token_to_orig_map": token_to_orig_map,
                    "token_is_max_context": token_is_max_context,
                    "start_position": start_position,
                    "end_position": end_position,
                }
            )
    return features


def _improve_answer_span(doc_tokens, input_start, input_end, tokenize, orig_answer_text):
    tok_answer_text = " ".join(tokenize(orig_answer_text))
    for new_start in range(input_start, input_end + 1):
        for new_end in range(input_end, new_start - 1, -1):
            text_span = " ".join(doc_tokens[new_start : (new_end + 1)])
            if text_span == tok_answer_text:
                return (new_start, new_end)
    return (input_start, input_end)


def _check_is_max_context(doc_spans, cur_span_index, position):
    best_score = None
    best_span_index = None
    for span_index, doc_span in enumerate(doc_spans):
        end = doc_span.start + doc_span.length - 1
        if position < doc_span.start:
            continue
        if position > end:
            continue
        num_left_context = position - doc_span.start
        num_right_context = end - position
        score = min(num_left_context, num_right_context) + 0.01 * doc_span.length
        if best_score is None or score > best_score:
            best_score = score
            best_span_index = span_index
    return cur_span_index == best_span_index


def write_predictions(
    all_examples, all_features, all_results, basic_tokenize, *,
    n_best_size, max_answer_length, version_2_with_negative, null_score_diff_threshold,
):  # fmt: skip
    """`all_results` holds (start logits, end logits) of each feature."""
    example_index_to_features = collections.defaultdict(list)
    for feature, result in zip(all_features, all_results, strict=True):
        example_index_to_features[feature["example_index"]].append((feature, result))
    all_predictions, all_nbest_json, scores_diff_json = {}, {}, {}
    for example_index, example in enumerate(all_examples):
        features = example_index_to_features[example_index]
        prelim_predictions = []
        score_null = 1000000
        null_start_logit = null_end_logit = 0
        min_null_feature_index = 0
        for feature_index, (feature, (start_logits, end_logits)) in enumerate(features):
            start_indexes = _get_best_indexes(start_logits, n_best_size)
            end_indexes = _get_best_indexes(end_logits, n_best_size)
            if version_2_with_negative:
                feature_null_score = start_logits[0] + end_logits[0]
                if feature_null_score < score_null:
                    score_null = feature_null_score
                    min_null_feature_index = feature_index
                    null_start_logit, null_end_logit = start_logits[0], end_logits[0]
            for start_index in start_indexes:
                for end_index in end_indexes:
                    if start_index not in feature["token_to_orig_map"]:
                        continue
                    if end_index not in feature["token_to_orig_map"]:
                        continue
                    if not feature["token_is_max_context"].get(start_index, False):
                        continue
                    if end_index < start_index:
                        continue
                    if end_index - start_index + 1 > max_answer_length:
                        continue
                    prelim_predictions.append(
                        (feature_index, start_index, end_index,
                         start_logits[start_index], end_logits[end_index])
                    )  # fmt: skip
        if version_2_with_negative:
            prelim_predictions.append(
                (min_null_feature_index, 0, 0, null_start_logit, null_end_logit)
            )
        prelim_predictions = sorted(prelim_predictions, key=lambda x: x[3] + x[4], reverse=True)
        seen_predictions = set()
        nbest = []
        for feature_index, start_index, end_index, start_logit, end_logit in prelim_predictions:
            if len(nbest) >= n_best_size:
                break
            feature = features[feature_index][0]
            if start_index > 0:
                tok_tokens = feature["tokens"][start_index : (end_index + 1)]
                orig_doc_start = feature["token_to_orig_map"][start_index]
                orig_doc_end = feature["token_to_orig_map"][end_index]
                orig_tokens = example["doc_tokens"][orig_doc_start : (orig_doc_end + 1)]
                tok_text = " ".join(tok_tokens).replace(" ##", "").replace("##", "")
                tok_text = " ".join(tok_text.split())
                final_text = get_final_text(tok_text, " ".join(orig_tokens), basic_tokenize)
                if final_text in seen_predictions:
                    continue
            else:
                final_text = ""
            seen_predictions.add(final_text)
            nbest.append((final_text, start_logit, end_logit))
        if version_2_with_negative and "" not in seen_predictions:
            nbest.append(("", null_start_logit, null_end_logit))
        if not nbest:
            nbest.append(("empty", 0.0, 0.0))
        best_non_null_entry = next((entry for entry in nbest if entry[0]), None)
        probs = _compute_softmax([start + end for _, start, end in nbest])
        all_nbest_json[example["qas_id"]] = [
            {"text": text, "probability": prob, "start_logit": start, "end_logit": end}
            for (text, start, end), prob in zip(nbest, probs, strict=True)
        ]
        if not version_2_with_negative:
            all_predictions[example["qas_id"]] = nbest[0][0]
        else:
            score_diff = score_null - best_non_null_entry[1] - best_non_null_entry[2]
            scores_diff_json[example["qas_id"]] = score_diff
            null = score_diff > null_score_diff_threshold
            all_predictions[example["qas_id"]] = "" if null else best_non_null_entry[0]
    return all_predictions, all_nbest_json, scores_diff_json


def get_final_text(pred_text, orig_text, basic_tokenize):
    def _strip_spaces(text):
        kept = [(i, c) for i, c in enumerate(text) if c != " "]
        return "".join(c for _, c in kept), {n: i for n, (i, _) in enumerate(kept)}

    tok_text = " ".join(basic_tokenize(orig_text))
    start_position = tok_text.find(pred_text)
    if start_position == -1:
        return orig_text
    end_position = start_position + len(pred_text) - 1
    orig_ns_text, orig_ns_to_s_map = _strip_spaces(orig_text)
    tok_ns_text, tok_ns_to_s_map = _strip_spaces(tok_text)
    if len(orig_ns_text) != len(tok_ns_text):
        return orig_text
    tok_s_to_ns_map = {tok_index: i for i, tok_index in tok_ns_to_s_map.items()}
    orig_start_position = orig_ns_to_s_map.get(tok_s_to_ns_map.get(start_position))
    orig_end_position = orig_ns_to_s_map.get(tok_s_to_ns_map.get(end_position))
    if orig_start_position is None or orig_end_position is None:
        return orig_text
    return orig_text[orig_start_position : (orig_end_position + 1)]


def _get_best_indexes(logits, n_best_size):
    index_and_score = sorted(enumerate(logits), key=lambda x: x[1], reverse=True)
    return [index for index, _ in index_and_score[:n_best_size]]


def _compute_softmax(scores):
    exp_scores = [math.exp(score - max(scores)) for score in scores]
    return [score / sum(exp_scores) for score in exp_scores]
