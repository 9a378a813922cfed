"""Which code a CPU gets, from the text that Linux describes it with."""

from __future__ import annotations

import pytest

from hcompile.codegen.tvm_cpu.machine import memory_class, read_cpu, this_cpu, this_device

AVX2 = "fpu sse2 avx avx2 fma"
AVX512 = f"{AVX2} avx512f avx512dq avx512vl avx512bw"


def cpu_info(flags: str, model: int = 17) -> str:
    name = f"cpu family\t: 25\nmodel\t\t: {model}\nmodel name\t: AMD EPYC\nstepping\t: 1\n"
    one = f"processor\t: 0\n{name}flags\t\t: {flags}\n"
    return one + "\n" + one.replace("processor\t: 0", "processor\t: 1")


@pytest.mark.parametrize(
    ("flags", "isa", "bits", "registers"),
    [
        (AVX2, "avx2", 256, 16),
        (AVX512, "avx512", 512, 32),
        (f"{AVX512} avx512_bf16", "avx512-bf16", 512, 32),
        (f"{AVX2} avx512f", "avx2", 256, 16),
    ],
)
def test_vectors_follow_the_flags(flags: str, isa: str, bits: int, registers: int) -> None:
    cpu = read_cpu(cpu_info(flags))
    assert (cpu.isa, cpu.vector_bits, cpu.vector_registers) == (isa, bits, registers)
    assert cpu.dot_bfloat16 == ("bf16" in isa)


def test_the_name_holds_what_the_vendor_leaves_out() -> None:
    assert read_cpu(cpu_info(AVX2)).model == "AMD EPYC (25/17/1)"


def test_cpus_that_differ_have_different_digests() -> None:
    texts = [cpu_info(AVX2), cpu_info(AVX512), cpu_info(AVX2, model=18)]
    assert len({read_cpu(text).digest for text in texts}) == 3
    assert read_cpu(cpu_info("avx fma avx2 sse2 fpu")).digest == read_cpu(cpu_info(AVX2)).digest


def test_an_arm_description_has_a_model_and_no_avx() -> None:
    cpu = read_cpu("processor\t: 0\nFeatures\t: fp asimd\nCPU part\t: 0xd40\n")
    assert cpu.model == "0xd40" and "avx" not in cpu.isa


@pytest.mark.parametrize(
    ("mebibytes", "name"), [(256, "1GiB"), (1024, "1GiB"), (1025, "2GiB"), (60_000, "64GiB")]
)
def test_memory_is_rounded_up_to_powers_of_two(mebibytes: int, name: str) -> None:
    assert memory_class(mebibytes << 20) == name


def test_this_device_is_described() -> None:
    device = this_device()
    assert device.kind == "cpu" and device.isa == this_cpu().isa and device.memory_class.endswith("GiB")
