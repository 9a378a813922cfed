"""transformers models come in with one attention node per layer, and compute what transformers computes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from hcompile.errors import UsageError
from hcompile.frontend.load import load_model
from hcompile.guard import Guard
from hcompile.left import LeftDense
from hcompile.passes.findings import findings
from hcompile.passes.verify import compare_outputs
from hcompile.program import Program

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
GEMMA = GROUPED | {"head_dim": 8, "sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]}

FALCON = {name: SIZES[name] for name in SIZES if name not in ("intermediate_size", "max_position_embeddings")}
GPT2 = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
T5 = {"vocab_size": 97, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
GPT_OSS = GEMMA | {
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}


@dataclass(frozen=True)
class Case:
    """A small model, the mask of each layer that is raised, and why each other layer is not."""

    architecture: str
    config: str
    fields: dict[str, Any]
    masks: tuple[str, ...] = ()
    kv_heads: int = 4
    left: tuple[str, ...] = ()


CASES = {
    "llama": Case("LlamaForCausalLM", "LlamaConfig", GROUPED, ("causal",) * 2, kv_heads=2),
    "gemma3": Case(
        "Gemma3ForCausalLM", "Gemma3TextConfig", GEMMA, ("causal, window 7", "causal"), kv_heads=2
    ),
    "gpt2": Case(
        "GPT2LMHeadModel", "GPT2Config", GPT2 | {"bos_token_id": 0, "eos_token_id": 0}, ("causal",) * 2
    ),
    "bert": Case("BertModel", "BertConfig", SIZES, ("bidirectional",) * 2),
    # Falcon does not go through the attention interface: its fused attention is found in the graph.
    "falcon": Case("FalconForCausalLM", "FalconConfig", FALCON, ("causal",) * 2, kv_heads=1),
    "t5": Case("T5EncoderModel", "T5Config", T5, left=("it has a position bias",) * 2),
    "mistral": Case(
        "MistralForCausalLM",
        "MistralConfig",
        GROUPED | {"sliding_window": 7},
        ("causal, window 7",) * 2,
        kv_heads=2,
    ),
    "qwen3": Case("Qwen3ForCausalLM", "Qwen3Config", GROUPED | {"head_dim": 8}, ("causal",) * 2, kv_heads=2),
    "gemma2": Case("Gemma2ForCausalLM", "Gemma2Config", GEMMA, left=("it has logit softcap",) * 2),
    "gpt_oss": Case(
        "GptOssForCausalLM", "GptOssConfig", GPT_OSS, left=("it has attention sinks that are parameters",) * 2
    ),
}
FAST = ("llama", "gemma3", "gpt2", "bert", "falcon", "t5")


def save_model(folder: Path, architecture: str, config: str, fields: dict[str, Any]) -> Any:
    """Save a random model, its matrices large enough for attention to matter, and return it."""
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(getattr(transformers, config)(**fields)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return model


def outputs_of(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask, use_cache=False)
    output: torch.Tensor = found["logits" if "logits" in found else "last_hidden_state"]
    return output


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in CASES],
)
def imported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Case, Any, Program]:
    folder = tmp_path_factory.mktemp(request.param)
    case = CASES[request.param]
    model = save_model(folder, case.architecture, case.config, case.fields)
    return case, model, load_model(folder).program


def test_every_attention_is_a_node_or_named_with_the_reason(imported: tuple[Case, Any, Program]) -> None:
    case, model, program = imported
    assert [found.mask for found in findings(program)] == [f"{mask}, key padding" for mask in case.masks]
    assert {(found.q_heads, found.kv_heads) for found in findings(program)} <= {(4, case.kv_heads)}
    assert tuple(entry.reason for entry in program.left) == case.left
    names = [site.name for site in program.sites] + [entry.name for entry in program.left]
    assert set(names) <= {name for name, _ in model.named_modules()}
    assert program.guards == ()


def test_it_computes_what_the_model_computes(imported: tuple[Case, Any, Program]) -> None:
    _, model, program = imported
    generator = torch.Generator().manual_seed(1)
    for batch, length, padding in ((1, 1, 0), (3, 33, 9), (2, 50, 0)):
        ids = torch.randint(1, 97, (batch, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, :padding] = 0
        mask[-1, length - padding // 2 :] = 0
        compare_outputs([outputs_of(model, ids, mask)], program, [ids, mask])


def test_inputs_and_outputs_carry_the_models_names(imported: tuple[Case, Any, Program]) -> None:
    case, _, program = imported
    assert [(spec.name, spec.dtype, spec.default) for spec in program.inputs] == [
        ("input_ids", "int64", None),
        ("attention_mask", "int64", "ones"),
    ]
    assert list(program.output_tree) == ["logits" if "LM" in case.architecture else "last_hidden_state"]
    (_, batch_limit), (_, length_limit) = program.dims.values()
    assert batch_limit is None
    assert length_limit in (64, 2048, 2**17)


def test_raised_layers_leave_neither_mask_nor_repeated_heads(imported: tuple[Case, Any, Program]) -> None:
    case, _, program = imported
    called = {node.target._opname for node in program.graph.graph.nodes if hasattr(node.target, "_opname")}
    if not case.left:
        assert not called & {"scaled_dot_product_attention", "softmax", "le", "repeat_interleave"}


def test_an_image_model_is_raised(tmp_path: Path) -> None:
    fields = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = save_model(tmp_path, "ViTModel", "ViTConfig", fields | {"image_size": 32, "patch_size": 8})
    program = load_model(tmp_path).program
    assert [found.mask for found in findings(program)] == ["bidirectional"] * 2
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(pixel_values=pixels).last_hidden_state
    compare_outputs([expected], program, [pixels])


@pytest.mark.parametrize("kind", ["Bert", "ViT"])
def test_an_encoder_that_was_saved_without_its_pooler_comes_in(tmp_path: Path, kind: str) -> None:
    fields = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = getattr(transformers, f"{kind}Config")(**fields)
    getattr(transformers, f"{kind}Model")(config, add_pooling_layer=False).save_pretrained(tmp_path)
    program = load_model(tmp_path).program
    assert len(program.sites) == 1 and list(program.output_tree) == ["last_hidden_state"]


def test_an_image_model_without_a_size_says_what_to_do() -> None:
    from hcompile.frontend.transformers_folder import import_model

    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])
    with pytest.raises(UsageError, match=r"tiny: .* gives no image_size .* --model package\.module:factory"):
        import_model(transformers.ResNetModel(config).eval(), "tiny")


def test_a_mask_that_is_computed_with_has_a_guard_and_the_original_graph(tmp_path: Path) -> None:
    fields = SIZES | {"num_hidden_layers": 1, "max_2d_position_embeddings": 8}
    model = save_model(tmp_path, "LayoutLMModel", "LayoutLMConfig", fields)
    imported = load_model(tmp_path)
    assert imported.program.guards == (Guard("binary", "attention_mask"),)
    assert imported.original is not None and imported.original.sites == ()
    ids = torch.randint(1, 97, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 4] = -1  # hidden by the model's arithmetic, and neither of the two values that the proof assumes
    with torch.no_grad():
        wanted = model(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(imported.original.run(ids, mask)[0], wanted)


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    save_model(folder, "LlamaForCausalLM", "LlamaConfig", GROUPED | {"num_hidden_layers": 1})
    return folder


def test_weights_take_the_wanted_dtype(llama_folder: Path) -> None:
    program = load_model(llama_folder, dtype="bfloat16").program
    assert {tensor.dtype for tensor in program.tensors.values() if tensor.dim() > 1} == {
        torch.bfloat16,
        torch.int32,
    }


def _changed(folder: Path, target: Path, **fields: Any) -> Path:
    """Copy a folder with another config.json; None removes a field."""
    config = json.loads((folder / "config.json").read_text()) | fields
    kept = {name: value for name, value in config.items() if value is not None}
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    (target / "config.json").write_text(json.dumps(kept))
    return target


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"architectures": ["Evil"], "auto_map": {"AutoModel": "evil.Evil"}},
            "code from a model folder is never run",
        ),
        ({"architectures": ["PreTrainedConfig"]}, "PreTrainedConfig is no class"),
        ({"architectures": None}, "no architecture is named"),
        ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}, "tensors are missing"),
        ({"attn_implementation": "someone/kernels"}, "attn_implementation would choose code to run"),
        (
            {"text_config": {"_attn_implementation": "someone/kernels"}},
            "_attn_implementation would choose code to run",
        ),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "the weights are quantized"),
        ({"hidden_size": 48}, "the model cannot be loaded"),
        ({"num_hidden_layers": 2}, "9 tensors are missing from the safetensors"),
        ({"vocab_size": "many"}, "the model cannot be loaded"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(
    llama_folder: Path, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_model(_changed(llama_folder, tmp_path, **fields))
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_not_read(llama_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((llama_folder / "config.json").read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match="no safetensors there"):
        load_model(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "no json", "no config"])
def test_a_damaged_folder_is_one_line(llama_folder: Path, tmp_path: Path, damage: str) -> None:
    folder = _changed(llama_folder, tmp_path)
    if damage == "truncated":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "no json":
        (folder / "config.json").write_text("{")
    else:
        (folder / "config.json").unlink()
    with pytest.raises(UsageError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_code_in_a_folder_of_a_known_model_is_not_run(llama_folder: Path, tmp_path: Path) -> None:
    folder = _changed(llama_folder, tmp_path, auto_map={"AutoModelForCausalLM": "evil.Evil"})
    (folder / "evil.py").write_text("raise SystemExit('ran')\n")
    assert load_model(folder).program.left == ()


def test_a_changed_mask_is_left_with_the_reason(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama import modeling_llama

    made = modeling_llama.create_causal_mask

    def without_a_key(**rest: Any) -> Any:
        mask = made(**rest)
        return mask if mask is None else mask & (torch.arange(mask.shape[-1]) != 3)

    monkeypatch.setattr(modeling_llama, "create_causal_mask", without_a_key)
    assert load_model(llama_folder).program.left == (
        LeftDense("model.layers.0.self_attn", "the model changed its mask on the way"),
    )
