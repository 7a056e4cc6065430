# SPDX-License-Identifier: Apache-2.0
"""Makes `pytorch_file.bin`, what `torch.save` makes of a few tensors, and `pytorch_file.npz`.

    python tests/goldens/make_pytorch_file.py

Needs PyTorch (`make parity` installs it). bfloat16, which .npz lacks, is kept as float32.
"""

import collections
from pathlib import Path

import numpy as np
import torch


def main() -> None:
    """Writes both files beside this script."""
    torch.manual_seed(0)
    table = torch.randn(6, 4)
    tensors = collections.OrderedDict(
        {
            "whole": table,
            "transposed": table.T,
            "part": table[2:5, 1::2],
            "half": torch.randn(3).half(),
            "bfloat16": torch.randn(2, 2).bfloat16(),
            "double": torch.randn(2).double(),
            "ids": torch.arange(5)[None],
            "flags": torch.tensor([True, False]),
            "scalar": torch.tensor(2.5),
            "empty": torch.zeros(0, 3),
            "parameter": torch.nn.Parameter(torch.ones(2)),
        }
    )
    tensors._metadata = {"": {"version": 1}}  # as state_dict() has it
    folder = Path(__file__).parent
    torch.save(tensors, folder / "pytorch_file.bin")
    arrays = {
        name: (tensor.float() if name == "bfloat16" else tensor).detach().numpy()
        for name, tensor in tensors.items()
    }
    np.savez(folder / "pytorch_file.npz", **arrays)


if __name__ == "__main__":
    main()
