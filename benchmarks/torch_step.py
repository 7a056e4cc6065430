# SPDX-License-Identifier: Apache-2.0
"""The peer of `train_step.py`: one training step of Hugging Face's `BertForPreTraining`.

PyTorch eager, dropout on, clipping, AdamW with the usual decay groups; float32 on a CPU, bfloat16
autocast on a GPU, attention by `scaled_dot_product_attention`.
"""

from collections.abc import Sequence

import torch
import transformers

from bert_jax.config import BertConfig
from bert_jax.convert.huggingface import to_huggingface_config
from data_pipeline.batch import Batch


class TorchStep:
    """Their training step.

    Args:
        config: the model.
        batches: of `data_pipeline.batch`, worked off in turn.
        gathered: the masked-LM head sees the masked positions only, as ours does; otherwise all
            positions, as their own forward function has it.
    """

    def __init__(self, config: BertConfig, batches: Sequence[Batch], gathered: bool) -> None:
        torch.manual_seed(0)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._autocast = config.compute_dtype == "bfloat16"
        settings = transformers.BertConfig(**to_huggingface_config(config))
        settings._attn_implementation = "sdpa"
        self._model = transformers.BertForPreTraining(settings).to(self._device).train()
        self._optimizer = torch.optim.AdamW(self._groups(), lr=1e-4, eps=1e-6)
        self._loss = self._gathered_loss if gathered else self._their_loss
        self._batches = [
            {name: torch.from_numpy(array).to(self._device) for name, array in batch.items()}
            for batch in batches
        ]
        self._taken = 0

    def dispatch(self) -> None:
        """Makes one step; on a GPU it is only started."""
        batch = self._batches[self._taken % len(self._batches)]
        self._taken += 1
        with torch.autocast(self._device, torch.bfloat16, enabled=self._autocast):
            loss = self._loss(batch)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()

    def wait(self) -> None:
        """Waits for all steps."""
        if self._device == "cuda":
            torch.cuda.synchronize()

    def _groups(self) -> list[dict[str, object]]:
        named = list(self._model.named_parameters())
        plain = [p for name, p in named if "LayerNorm" in name or name.endswith("bias")]
        decayed = [p for name, p in named if not ("LayerNorm" in name or name.endswith("bias"))]
        return [
            {"params": decayed, "weight_decay": 0.01},
            {"params": plain, "weight_decay": 0.0},
        ]

    def _their_loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        labels = torch.full_like(batch["input_ids"], -100)
        ids = torch.where(batch["masked_weights"] > 0, batch["masked_ids"], -100)
        labels.scatter_(1, batch["masked_positions"].long(), ids)
        labels[:, 0] = -100  # unused slots point at [CLS]
        return self._model(
            input_ids=batch["input_ids"],
            attention_mask=batch["input_mask"],
            token_type_ids=batch["segment_ids"],
            labels=labels.long(),
            next_sentence_label=batch["next_sentence_label"].long(),
        ).loss

    def _gathered_loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        output = self._model.bert(
            input_ids=batch["input_ids"],
            attention_mask=batch["input_mask"],
            token_type_ids=batch["segment_ids"],
        )
        hidden = output.last_hidden_state
        places = batch["masked_positions"].long()[..., None].expand(-1, -1, hidden.shape[-1])
        mlm, nsp = self._model.cls(hidden.gather(1, places), output.pooler_output)
        weights = batch["masked_weights"]
        losses = torch.nn.functional.cross_entropy(
            mlm.float().flatten(0, 1), batch["masked_ids"].long().flatten(), reduction="none"
        )
        mlm_loss = (losses * weights.flatten()).sum() / (weights.sum() + 1e-5)
        labels = batch["next_sentence_label"].long()
        return mlm_loss + torch.nn.functional.cross_entropy(nsp.float(), labels)
