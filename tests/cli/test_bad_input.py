"""Bad input to every command: one line that says what, where and what to do, and nothing written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from hcompile.cli.main import main
from tests.tiny_models import tiny_llama_model

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of one layer that reads bytes."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_llama_model(vocab_size=256, hidden_size=32, intermediate_size=32).save_pretrained(folder)
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command that must fail, in an empty folder that must stay as it is; return exit code and stderr."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def invoke(*arguments: object) -> tuple[int, str]:
        before = sorted(folder.rglob("*"))
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.stdout == ""
        errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1
        assert result.stderr.endswith(f"{errors[0]}\n")
        assert sorted(folder.rglob("*")) == before
        return result.exit_code, errors[0].removeprefix("Error: ")

    return invoke


@pytest.mark.parametrize(
    "arguments", [("optimize",), ("inspect",), ("ablate", "--calib", "stdlib")], ids=lambda a: a[0]
)
def test_missing_model(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments, "nothing") == (2, "nothing: no such file or folder")


@pytest.mark.parametrize(
    "arguments", [("bench", "m.hcm"), ("tune", "m.hcm"), ("verify", "m.hcm", "stdlib")], ids=lambda a: a[0]
)
def test_missing_artifact(run: Run, arguments: tuple[str, ...]) -> None:
    expected = "m.hcm: no such artifact; make one with `hcompile optimize MODEL -o m.hcm`"
    assert run(*arguments) == (2, expected)


@pytest.mark.parametrize("arguments", [(), ("m.hcm", "--workload", "float32 1x1/1x8 8x8: 1 dense")], ids=len)
def test_tuning_neither_or_both(run: Run, arguments: tuple[str, ...]) -> None:
    assert run("tune", *arguments) == (2, "tune wants one thing to tune: an artifact, or --workload")


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--documents", "6,24", "documents (6, 24): give three numbers, to profile, repair and certify with"),
        (
            "--documents",
            "6,24,8",
            "documents 6,24,8: profile and repair take at least 1 document, certify at least 32",
        ),
        ("--documents", "6,24,0", "Invalid value for '--documents': 0 is below 1."),
        ("--reserve", "1", "Invalid value for '--reserve': 1.0 is not in the range 0<=x<1."),
    ],
)
def test_documents_and_reserves_that_cannot_be(
    run: Run, model: Path, option: str, value: str, told: str
) -> None:
    assert run("optimize", model, "--calib", "stdlib", "--lengths", "64", option, value) == (2, told)


def test_a_workload_of_another_form(run: Run) -> None:
    code, message = run("tune", "--workload", "float32 2 heads")
    assert code == 2 and message.startswith("--workload 'float32 2 heads': wanted a workload such as")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there(run: Run) -> None:
    for arguments in (("tune", "--workload", "bfloat16 1x1/1x64 8x8: 1 dense"), ("optimize", "nothing")):
        code, message = run(*arguments, "--target", "cuda")
        assert code == 5 and re.fullmatch(
            r"target cuda: torch \S+ finds no NVIDIA GPU: run where .*", message
        )


@pytest.mark.parametrize("budget", ["kl", "kl=", "=0.1", "kl=-1", "kl=nan", "kl=a%"])
def test_budget_of_another_form(run: Run, budget: str) -> None:
    code, message = run("optimize", "nothing", "--budget", budget)
    assert code == 2
    assert message.startswith(f"budget {budget!r} is not of the form metric=number")


def test_two_budgets_of_one_metric(run: Run) -> None:
    code, message = run(
        "optimize", "nothing", "--budget", "kl=0.003", "--budget", "nll=1%", "--budget", "kl=1"
    )
    assert (code, message) == (2, "metric kl has two budgets, kl=0.003 and kl=1: give one")


def test_unknown_metric(run: Run) -> None:
    code, message = run("optimize", "nothing", "--budget", "perplexity=1%")
    assert code == 2
    assert message.startswith("metric 'perplexity' is unknown: use one of cosine, greedy, kl, nll,")


def test_a_curve_without_data(run: Run) -> None:
    code, message = run("ablate", "nothing")
    assert code == 2 and message.startswith(
        "nothing: a curve is measured on data that the profile did not see: pass"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--metric", "perplexity"), "metric 'perplexity' is unknown: use one of"),
        (("--budget", "kl"), "budget 'kl' is not of the form metric=number"),
        (("--metric", "nll", "--budget", "kl=1"), "--metric nll and --budget kl=1 name two metrics"),
    ],
    ids=lambda value: value[0],
)
def test_a_curve_of_a_metric_that_there_is_not(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, found = run("ablate", "nothing", "--calib", "stdlib", *arguments)
    assert code == 2 and found.startswith(message)


def test_a_curve_for_a_folder_that_does_not_exist(run: Run) -> None:
    code, message = run("ablate", "nothing", "--calib", "stdlib", "--lengths", "256", "-o", "no/such/curve")
    assert (code, message.endswith("the output folder is missing or cannot be written")) == (5, True)


def test_a_curve_at_a_length_without_windows(run: Run, model: Path) -> None:
    code, message = run("ablate", model, "--calib", "stdlib", "--lengths", "16,256")
    expected = "no head can see less at 16 tokens: calibrate at a longer length"
    assert (code, message) == (2, expected)


def test_metric_function_that_does_not_exist(run: Run) -> None:
    code, message = run("optimize", "nothing", "--budget", "mine=1", "--metric", "no_such_module:mine")
    assert (code, "no_such_module" in message) == (2, True)


def test_output_in_a_folder_that_does_not_exist(run: Run, model: Path) -> None:
    code, message = run("optimize", model, "-o", "no/such/m.hcm", "--calib", "stdlib")
    assert (code, message.endswith("no such folder for the output; create it first")) == (2, True)


def test_output_that_is_something_else(run: Run, model: Path) -> None:
    Path("notes.txt").write_text("mine")
    code, message = run("optimize", model, "-o", "notes.txt", "--calib", "stdlib")
    assert (code, message) == (2, "notes.txt: exists and is no artifact; choose another output or remove it")


def test_model_that_is_a_text_file(run: Run) -> None:
    Path("model.pt").write_text("weights go here\n")
    code, message = run("inspect", "model.pt")
    assert code == 2
    assert message.startswith("model.pt is a text file: write the model with torch.export.save")


def test_model_without_data(run: Run, model: Path) -> None:
    code, message = run("optimize", model)
    assert (code, "pass --calib" in message) == (2, True)


def test_missing_data(run: Run, model: Path) -> None:
    code, message = run("optimize", model, "--calib", "no-such-texts")
    assert (code, "no-such-texts" in message) == (2, True)


def test_data_without_a_name(run: Run, model: Path) -> None:
    Path("notes.txt").write_text("mine")
    code, message = run("optimize", model, "--calib", "")
    assert (code, message.startswith("calibration data '' names nothing")) == (2, True)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.txt", "", "gives 0 different documents of 128 tokens and 48 are needed"),
        ("short.txt", "hello", "gives 0 different documents of 128 tokens and 48 are needed"),
        (
            "same.jsonl",
            '{"text": "' + "ab" * 99 + '"}\n',
            "gives 1 different documents of 128 tokens and 48 are",
        ),
        ("blank.jsonl", "", "holds no text, .jsonl or .safetensors: add documents"),
        (
            "failing.py",
            "def texts():\n    raise OSError('away')\n",
            "failed (OSError: away): mend the function",
        ),
    ],
    ids=["empty", "short", "same", "blank", "failing"],
)
def test_data_that_is_too_little(run: Run, model: Path, name: str, text: str, message: str) -> None:
    Path(name).write_text(text * (100 if name == "same.jsonl" else 1))
    source = "failing:texts" if name == "failing.py" else name
    code, found = run("optimize", model, "--calib", source, "--lengths", "128")
    assert code == 2 and message in found


def test_weights_that_are_no_numbers(run: Run, model: Path, tmp_path: Path) -> None:
    sick = tiny_llama_model(vocab_size=256, hidden_size=32, intermediate_size=32)
    torch.nn.init.constant_(sick.model.norm.weight, float("nan"))
    sick.save_pretrained(tmp_path / "sick")
    code, message = run("optimize", tmp_path / "sick", "--calib", "stdlib", "--lengths", "128")
    assert code == 2 and message.startswith("the model's own output 0 is not finite")


def test_length_beyond_what_the_model_allows(run: Run, model: Path) -> None:
    expected = "--lengths 1024: the model was made for at most 512 tokens"
    assert run("optimize", model, "--calib", "stdlib", "--lengths", "1024") == (2, expected)


def test_windows_that_cannot_widen(run: Run, model: Path) -> None:
    one = "--widen lets windows widen from one length to another: name both, as in --lengths 2048,4096"
    assert run("optimize", model, "--calib", "stdlib", "--lengths", "128", "--widen") == (2, one)
    short = ("--lengths", "128,512", "--widen", "--budget", "kl=1", "--budget", "recall=0.9")
    code, message = run("optimize", model, "--calib", "stdlib", *short)
    assert code == 2 and message.startswith("metric recall: documents of 128 tokens have no room")
    given = "--widen is for plans that are chosen, and --plan gives one: leave one of them out"
    assert run("optimize", model, "--lengths", "96,128", "--widen", "--plan", "plan.json") == (2, given)


def test_lengths_beyond_that_no_document_has(run: Run, model: Path) -> None:
    texts = (json.dumps({"text": f"{number} " * 60}) for number in range(100, 180))
    Path("texts.jsonl").write_text("\n".join(texts))
    arguments = ("--calib", "texts.jsonl", "--lengths", "96,128", "--beyond", "256,320")
    code, message = run("optimize", model, *arguments)
    assert code == 2 and message == (
        "--beyond 256: texts.jsonl has 0 documents of 256 tokens that the plan's choice has not read, and 2 are "
        "needed: add longer texts, or name them with --verify"
    )


def test_planted_pairs_without_room(run: Run, model: Path) -> None:
    code, message = run(
        "optimize",
        model,
        "--calib",
        "stdlib",
        "--lengths",
        "128",
        "--budget",
        "kl=1",
        "--budget",
        "recall=0.9",
    )
    assert code == 2 and message.startswith("metric recall: documents of 128 tokens have no room")


def test_plan_of_another_model(run: Run, model: Path) -> None:
    Path("plan.json").write_text(json.dumps({"schema": 1, "sites": []}))
    code, message = run("optimize", model, "--plan", "plan.json")
    missing = "missing sites ['model.layers.0.self_attn'], unknown sites []"
    expected = f"plan.json: the plan does not fit the model: {missing}"
    assert (code, message) == (2, expected)


def test_database_that_cannot_be_written(run: Run, model: Path) -> None:
    heads = [{"family": "dense"}] * 2
    plan = {"schema": 1, "sites": [{"site": "model.layers.0.self_attn", "heads": heads}]}
    Path("plan.json").write_text(json.dumps(plan))
    code, message = run("optimize", model, "--plan", "plan.json", "--db", "/proc/no/tuning.sqlite")
    assert code == 5
    assert message.startswith("tuning database /proc/no/tuning.sqlite ")


def test_picture_with_an_unknown_ending(run: Run, model: Path) -> None:
    code, message = run("inspect", model, "--plot", "plan.bmp")
    assert (code, message) == (2, "picture plan.bmp has no known ending: choose one of .pdf, .png, .svg")
