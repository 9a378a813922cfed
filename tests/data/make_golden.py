"""Write the golden artifact: a small model compiled once, which every later version must still load.

    python -m tests.data.make_golden

Run it only when the artifact's schema changes, under a new number; the older ones stay and keep loading.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from hcompile.artifact.write import write_artifact
from hcompile.frontend.transformers_folder import import_model
from hcompile.passes.select import select
from hcompile.patterns import Dense, Local
from hcompile.plan import Plan
from hcompile.runtime.crossover import Crossover, Timing
from hcompile.runtime.dispatch import safe_tables
from hcompile.runtime.inputs import length_axis
from hcompile.versions import library_versions
from tests.tiny_models import tiny_llama_model

FOLDER = Path(__file__).parent
ARTIFACT, EXPECTED = FOLDER / "golden-2.hcm", FOLDER / "golden-2.safetensors"


def main() -> None:
    """Write the artifact, and inputs with the logits that the reference gives for them."""
    torch.manual_seed(0)
    model = tiny_llama_model(
        hidden_size=16, intermediate_size=24, num_key_value_heads=1, head_dim=8, max_position_embeddings=128
    )
    program = import_model(model, "golden")
    plan = Plan.of({site.name: [Dense(), Local(8, 2)] for site in program.sites})
    program = select(program, plan)
    timings = (Timing(16, 2.0, 3.0), Timing(24, 4.0, 3.0), Timing(16, 4.0, 3.0, batch=2))
    facts = {
        "versions": library_versions(),
        "source": "tests/data/make_golden.py",
        "kind": "transformers",
        "dtype": "float32",
        "backend": "tvm_cpu",
        "device": None,
        "linear_library": "default",
        "length_axis": length_axis(program),
        "crossover": Crossover(((1, 24), (2, 16)), timings).to_json(),
        "certificate": None,
        "notes": {},
    }
    write_artifact(ARTIFACT, program, None, safe_tables(program, "tvm_cpu"), facts)
    ids = torch.randint(0, 64, (2, 40))
    mask = (torch.arange(40) >= torch.tensor([[0], [7]])).long()
    with torch.no_grad():
        logits = program.run(ids, mask)[0]
    save_file({"input_ids": ids, "attention_mask": mask, "logits": logits.contiguous()}, EXPECTED)


if __name__ == "__main__":
    main()
