"""Runs each GPU kernel once over ragged shapes, for `compute-sanitizer --tool memcheck --error-exitcode 1`."""

from __future__ import annotations

import torch

from hcompile.far_field import FarFields
from hcompile.patterns.linear import FEATURES
from tests.codegen.far_cases import far_call
from tests.codegen.triton_gpu.paged import Paged
from tests.codegen.triton_gpu.test_far_on_gpu import CASES, DTYPES
from tests.codegen.triton_gpu.test_on_gpu import call, default_kernels, kernels


def main() -> None:
    made = kernels()
    for name, kernel in made.items():
        q, k, v, params, offset = call(333, 1 if name.startswith("decode") else 333)
        mask = torch.ones(1, 333, dtype=torch.bool, device="cuda")
        mask[:, :17] = False
        maps = torch.randn(q.shape[1], 2, FEATURES, q.shape[3] + 1, device="cuda")
        far = FarFields(maps, torch.arange(q.shape[1], device="cuda") % 2 == 0)
        for given in (None, mask):
            kernel(q, k, v, given, params, offset, 0.09, True)
            kernel(q, k, v, given, params, offset, 0.09, True, far=far)
        torch.cuda.synchronize()
    for case in CASES.values():
        for dtype in DTYPES:
            far_case = far_call(**case, dtype=dtype).on("cuda")
            for name, kernel in default_kernels(far_case.call.q.shape[3]).items():
                if name != "decode":
                    far_case.run(kernel)
    torch.cuda.synchronize()
    paged = Paged.random(0, 333, torch.bfloat16, head_dim=128, masked=True)
    paged.run(made["decode"], paged.arguments("cuda"))
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
