# SPDX-License-Identifier: Apache-2.0
"""Makes `huggingface_names.json`: tensor names and shapes of a real `BertForPreTraining`.

    python tests/goldens/make_huggingface_names.py

Needs PyTorch and transformers (`make parity` installs them). No two sizes of the model are equal,
so that a transposed matrix has another shape.
"""

import json
from pathlib import Path

import transformers

SIZES = {
    "vocab_size": 90,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 56,
    "max_position_embeddings": 40,
    "type_vocab_size": 3,
}


def main() -> None:
    """Writes the file beside this script."""
    model = transformers.BertForPreTraining(transformers.BertConfig(**SIZES))
    shapes = {name: str(list(tensor.shape)) for name, tensor in model.state_dict().items()}
    content = {
        "transformers": transformers.__version__,
        "config": SIZES,
        "tensors": shapes,
    }
    path = Path(__file__).with_name("huggingface_names.json")
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
