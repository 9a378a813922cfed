"""Runs each GPU kernel once over ragged shapes, for `compute-sanitizer --tool memcheck --error-exitcode 1`."""

from __future__ import annotations

import torch

from tests.codegen.triton_gpu.test_on_gpu import call, kernels


def main() -> None:
    for name, kernel in kernels().items():
        q, k, v, params, offset = call(333, 1 if name.startswith("decode") else 333)
        mask = torch.ones(1, 333, dtype=torch.bool, device="cuda")
        mask[:, :17] = False
        for given in (None, mask):
            kernel(q, k, v, given, params, offset, 0.09, True)
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
