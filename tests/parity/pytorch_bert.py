# SPDX-License-Identifier: Apache-2.0
"""BERT as PyTorch and transformers compute it, in our names: the reference of the parity tests.

The loss and the update rule are written out here from google-research/bert (`run_pretraining.py`,
`optimization.py`), because those of transformers and PyTorch are others.
"""

import re

import numpy as np
import torch
from transformers import BertConfig as HuggingFaceConfig
from transformers import BertForPreTraining

from bert_jax.convert.huggingface import to_huggingface_config
from bert_jax.convert.mapping import (
    export_tensors,
    import_tensors,
    parameter_shapes,
    unflatten,
)
from bert_jax.convert.names import HUGGINGFACE

# Models this small gain nothing from threads, and waiting threads take the cores from JAX.
torch.set_num_threads(1)


class Reference:
    """A `BertForPreTraining` with our parameters, in their dtype and without dropout."""

    def __init__(self, config, params):
        self.config = config
        tensors = {
            name: torch.tensor(array)
            for name, array in export_tensors(config, params, HUGGINGFACE).items()
        }
        settings = HuggingFaceConfig(**to_huggingface_config(config), attn_implementation="eager")
        dtype = next(iter(tensors.values())).dtype
        self.model = BertForPreTraining(settings).to(dtype).eval()
        # transformers keeps the lookup of [PAD] from learning. The original does not, and a random
        # replacement of a masked token can be [PAD].
        self.model.bert.embeddings.word_embeddings.padding_idx = None
        missing, unexpected = self.model.load_state_dict(tensors, strict=False)
        assert not unexpected
        assert set(missing) <= set(HUGGINGFACE.copies), missing

    def forward(self, batch):
        """Outputs for a batch of NumPy features; the MLM head runs at every position."""
        batch = {name: torch.tensor(array) for name, array in batch.items()}
        encoded = self.model.bert(
            input_ids=batch["input_ids"].long(),
            attention_mask=batch["input_mask"].long(),
            token_type_ids=batch["segment_ids"].long(),
            output_hidden_states=True,
        )
        everywhere, nsp = self.model.cls(encoded.last_hidden_state, encoded.pooler_output)
        rows = torch.arange(len(everywhere))[:, None]
        mlm = everywhere[rows, batch["masked_positions"].long()]
        return {
            "layers": torch.stack(encoded.hidden_states),
            "pooled": encoded.pooler_output,
            "mlm": mlm,
            "nsp": nsp,
            "loss": pretraining_loss(mlm, nsp, batch),
        }

    def outputs_and_gradients(self, batch):
        """NumPy outputs, and the gradient of the loss as our parameter tree."""
        self.model.zero_grad(set_to_none=True)
        outputs = self.forward(batch)
        outputs["loss"].backward()
        gradients = {name: p.grad.numpy() for name, p in self.model.named_parameters()}
        return (
            {name: value.detach().numpy() for name, value in outputs.items()},
            import_tensors(self.config, gradients, HUGGINGFACE),
        )

    def params(self):
        """The parameters now, as our tree."""
        tensors = {name: p.detach().numpy() for name, p in self.model.named_parameters()}
        return import_tensors(self.config, tensors, HUGGINGFACE)


def pretraining_loss(mlm, nsp, batch):
    """`get_masked_lm_output` and `get_next_sentence_output` of `run_pretraining.py`."""
    weights = batch["masked_weights"].to(mlm.dtype)
    log_probs = torch.log_softmax(mlm, -1)
    each = -log_probs.gather(-1, batch["masked_ids"].long()[..., None])[..., 0]
    masked = (each * weights).sum() / (weights.sum() + 1e-5)
    labels = batch["next_sentence_label"].long()
    return masked - torch.log_softmax(nsp, -1).gather(-1, labels[:, None]).mean()


class OriginalOptimizer:
    """`create_optimizer` and `AdamWeightDecayOptimizer` of `optimization.py`, with their names."""

    def __init__(self, model, init_lr, num_train_steps, num_warmup_steps):
        self.parameters = dict(model.named_parameters())
        self.m = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.v = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.init_lr, self.global_step = init_lr, 0
        self.num_train_steps, self.num_warmup_steps = num_train_steps, num_warmup_steps

    def learning_rate(self):
        if self.global_step < self.num_warmup_steps:
            return self.init_lr * self.global_step / self.num_warmup_steps
        return self.init_lr * (1 - self.global_step / self.num_train_steps)

    @torch.no_grad()
    def step(self):
        norm = torch.sqrt(sum(p.grad.square().sum() for p in self.parameters.values()))
        clip = 1.0 / torch.clamp(norm, min=1.0)
        for name, param in self.parameters.items():
            grad = param.grad * clip
            next_m = 0.9 * self.m[name] + (1.0 - 0.9) * grad
            next_v = 0.999 * self.v[name] + (1.0 - 0.999) * grad.square()
            update = next_m / (torch.sqrt(next_v) + 1e-6)
            if not re.search("LayerNorm|layer_norm|bias", name):
                update += 0.01 * param
            param -= self.learning_rate() * update
            self.m[name], self.v[name] = next_m, next_v
        self.global_step += 1


def random_batch(random, batch_size, length, vocab_size):
    """A valid batch of noise: ragged lengths, ragged numbers of predictions, both segments."""
    predictions = -(-15 * length // 100)
    lengths = random.integers(length // 2, length + 1, batch_size)
    lengths[0] = length
    mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
    boundary = random.integers(2, length // 2, (batch_size, 1))
    used = random.integers(1, predictions + 1, (batch_size, 1))
    input_ids = random.integers(0, vocab_size, mask.shape, dtype=np.int32) * mask
    input_ids[0, 1] = 0  # a token replaced by [PAD]
    positions = np.stack([random.permutation(n)[:predictions] for n in lengths])
    return {
        "input_ids": input_ids,
        "input_mask": mask,
        "segment_ids": (np.arange(length) >= boundary).astype(np.int32) * mask,
        "masked_positions": np.sort(positions, axis=1).astype(np.int32),
        "masked_ids": random.integers(0, vocab_size, positions.shape, dtype=np.int32),
        "masked_weights": (np.arange(predictions) < used).astype(np.float32),
        "next_sentence_label": random.integers(0, 2, batch_size, dtype=np.int32),
    }


def random_params(config, random, dtype):
    """Noise in every tensor, biases and scales too, so that each one matters."""
    flat = {}
    for path, shape in parameter_shapes(config).items():
        width = 0.2 if config.hidden_size < 100 else 0.02
        flat[path] = (random.normal(0, width, shape) + path.endswith("scale")).astype(dtype)
        if path in ("embeddings/word", "mlm/bias"):
            flat[path][config.vocab_size :] = 0
    return unflatten(flat)
