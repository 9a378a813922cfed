"""What a file is that is no export archive, and which form of the command takes it. Nothing in it is executed."""

from __future__ import annotations

import pickletools
import struct
import zipfile
from pathlib import Path

BROKEN_ZIP = (
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    IndexError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)
"""What `zipfile` raises on a file that is no zip file, or a damaged one."""

_WITH_FACTORY = "pass --model package.module:factory with it"
STATE_DICT = f"holds a state dict and no graph: {_WITH_FACTORY}"
_EXPORT = (
    "write the model with torch.export.save, or save its state_dict() and pass --model package.module:factory"
)
_DAMAGED_ZIP = "is a damaged zip file: copy it again, or write the model again with torch.export.save"

_MOST_PICKLE_BYTES = 1 << 26
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
_TENSOR_MODULES = frozenset(
    {"torch", "torch._utils", "torch._tensor", "torch.storage", "torch.nn.parameter", "torch.serialization"}
)
_DATA_CLASSES = frozenset({("collections", "OrderedDict"), ("_codecs", "encode"), ("builtins", "dict")})


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip file that fills the whole file.

    Raises:
        BROKEN_ZIP: it is damaged. One that starts late is, too: cut off behind a member that is a zip file itself,
            an archive still ends like a zip file.
    """
    file = zipfile.ZipFile(path)
    if min((info.header_offset for info in file.infolist()), default=0):
        file.close()
        raise zipfile.BadZipFile("the zip file starts within the file")
    return file


def is_safetensors(path: Path) -> bool:
    """Tell a safetensors file by its start: the length of a JSON header, and the header's first letter."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def describe(path: Path) -> str:
    """Return what the path is and what to do with it, to follow the path in a message: "is ...: ..."."""
    if (path / "config.json").is_file():
        return "is a folder of a transformers model: pass it as the model itself"
    if path.is_dir():
        return "is a folder: give an archive written by torch.export.save, or a transformers model folder"
    if not path.exists():
        return "does not exist: give an archive written by torch.export.save"
    if path.stat().st_size == 0:
        return "is empty: write the model with torch.export.save"
    if is_safetensors(path):
        return f"holds safetensors weights and no graph: {_WITH_FACTORY}"
    with path.open("rb") as file:
        start = file.read(4096)
    if start.startswith(b"PK"):
        try:
            return _describe_zip(path)
        except BROKEN_ZIP:
            return _DAMAGED_ZIP
    if start.startswith(_LEGACY_MAGIC):
        return f"is a torch.save file as torch 1.5 and before wrote it: load and save it again, then {_WITH_FACTORY}"
    if start[:1] == b"\x80" and start[1:2] in b"\2\3\4\5" and len(start) > 1:
        return f"is a Python pickle, which can run code and is not read: {_EXPORT}"
    if _is_text(start):
        return f"is a text file: {_EXPORT}"
    return f"is not an export archive, nor weights that are known here: {_EXPORT}"


def _describe_zip(path: Path) -> str:
    with open_zip(path) as file:
        names = {name.partition("/")[2]: name for name in file.namelist()}
        if "constants.pkl" in names or any(name.startswith("code/") for name in names):
            return f"is a TorchScript archive, which has no graph to compile: {_EXPORT}"
        if any(name.startswith("data/aotinductor/") for name in names):
            return "is a package that AOTInductor has compiled: pass the export it was compiled from"
        if "data.pkl" in names:
            info = file.getinfo(names["data.pkl"])
            pickle = b"" if info.file_size > _MOST_PICKLE_BYTES else file.read(info)
            if foreign := _foreign_class(pickle):
                return f"is a pickle of {foreign}, which can run code and is not read: {_EXPORT}"
            return STATE_DICT
    return f"is a zip file and no export archive: {_EXPORT}"


def _foreign_class(pickle: bytes) -> str:
    """Return the first class that the pickle names beyond those of tensors and containers, "" for none."""
    texts: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(pickle):
            if isinstance(argument, str):
                texts.append(argument)
            if opcode.name == "GLOBAL":
                module, name = texts[-1].split(" ", 1)
            elif opcode.name == "STACK_GLOBAL":
                module, name = texts[-2:]
            else:
                continue
            if module not in _TENSOR_MODULES and (module, name) not in _DATA_CLASSES:
                return f"{module}.{name}" if f"{module}{name}".isprintable() else "objects"
    except ValueError:  # no pickle, or one that is built to mislead
        return "objects"
    return ""


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        text = start[: error.start].decode("utf-8") if error.start > len(start) - 4 else ""
    return bool(text) and all(letter.isprintable() or letter in "\n\r\t\f" for letter in text)
