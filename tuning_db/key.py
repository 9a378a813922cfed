"""The key of a measurement: everything that must be equal for it to be used again."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from hcompile.checks import check_int, check_object, check_sha256, check_text, shown
from hcompile.values import sha256_json
from hcompile.workload import Workload


@dataclass(frozen=True, slots=True)
class Device:
    """The facts of a machine that a kernel's time depends on.

    Attributes:
        kind: `cpu`, or the name of another kind of device.
        model: the name the device gives itself, such as `AMD EPYC 9R14`.
        isa: what code is generated for, such as `znver4`.
        cores: physical cores that a measurement may use.
        threads: threads that a kernel runs on.
        memory_class: coarse class of the memory, such as `64GiB`.
    """

    kind: str
    model: str
    isa: str
    cores: int
    threads: int
    memory_class: str

    def __post_init__(self) -> None:
        for name in ("kind", "model", "isa", "memory_class"):
            check_text(f"device {name}", getattr(self, name))
        for name in ("cores", "threads"):
            check_int(f"device {name}", getattr(self, name), 1, 2**20)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Device:
        """Raises: ValueError that says what is wrong with the form."""
        return cls(**check_object("device", value, (field.name for field in fields(cls))))


@dataclass(frozen=True, slots=True)
class RecordKey:
    """Everything that must be equal for a measurement to be used again.

    Attributes:
        versions: (library, version) pairs sorted by library, such as torch, tvm and the code generator's own.
        backend: the code generator, such as `tvm_cpu`.
        template: the kernel template whose schedules are compared.
        source_sha256: hash of the template's source and of what it builds on.
    """

    device: Device
    versions: tuple[tuple[str, str], ...]
    backend: str
    template: str
    source_sha256: str
    workload: Workload

    def __post_init__(self) -> None:
        for library, version in self.versions:
            check_text("library name", library, 64)
            check_text(f"version of {library}", version, 128)
        names = [library for library, _ in self.versions]
        if names != sorted(set(names)):
            raise ValueError(f"record key: libraries {shown(names)} are not sorted or come twice")
        check_text("backend", self.backend, 64)
        check_text("template", self.template, 64)
        check_sha256("source_sha256", self.source_sha256)

    @property
    def digest(self) -> str:
        """The sha256 of the JSON form: equal digests mean equal keys."""
        return sha256_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        return {
            "device": self.device.to_json(),
            "versions": dict(self.versions),
            "backend": self.backend,
            "template": self.template,
            "source_sha256": self.source_sha256,
            "workload": self.workload.to_json(),
        }

    @classmethod
    def from_json(cls, value: Any) -> RecordKey:
        """Raises: ValueError that says what is wrong with the form."""
        form = check_object("record key", value, (field.name for field in fields(cls)))
        if not isinstance(form["versions"], dict):
            raise ValueError(f"versions are {shown(form['versions'])}, wanted an object")
        return cls(
            device=Device.from_json(form["device"]),
            versions=tuple(sorted(form["versions"].items())),
            backend=form["backend"],
            template=form["template"],
            source_sha256=form["source_sha256"],
            workload=Workload.from_json(form["workload"]),
        )
