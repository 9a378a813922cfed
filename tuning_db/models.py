"""The tables. A change here comes with a file in migrations/versions; a test compares the two."""

from __future__ import annotations

from typing import Annotated

from sqlalchemy import ForeignKey, Index, LargeBinary, MetaData, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Id = Annotated[int, mapped_column(primary_key=True)]
KeyId = Annotated[int, mapped_column(ForeignKey("keys.id", ondelete="CASCADE"))]
Sha256 = Annotated[str, mapped_column(String(64))]
Word = Annotated[str, mapped_column(String(512))]
Long = Annotated[str, mapped_column(Text)]
Time = Annotated[str, mapped_column(String(27))]


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can speak of it."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class KeyRow(Base):
    """A record key: `json` is the whole of it, the other columns are there to filter by."""

    __tablename__ = "keys"
    __table_args__ = (UniqueConstraint("digest"),)

    id: Mapped[Id]
    digest: Mapped[Sha256]
    json: Mapped[Long]
    device: Mapped[Word]
    backend: Mapped[Word]
    template: Mapped[Word]
    dtype: Mapped[Word]


class RecordRow(Base):
    """The newest measurement of a schedule under a key."""

    __tablename__ = "records"
    __table_args__ = (
        UniqueConstraint("key_id", "schedule"),
        Index(None, "key_id", "status", "median_us"),
        Index(None, "digest"),
    )

    id: Mapped[Id]
    key_id: Mapped[KeyId]
    digest: Mapped[Sha256]
    schedule: Mapped[Long]
    status: Mapped[Word]
    median_us: Mapped[float | None]
    p20_us: Mapped[float | None]
    p80_us: Mapped[float | None]
    samples: Mapped[int]
    max_err: Mapped[float | None]
    tolerance: Mapped[float | None]
    message: Mapped[Long]
    measured_at: Mapped[Time]
    run_id: Mapped[Word]
    noisy: Mapped[bool]


class ClaimRow(Base):
    """A candidate being measured, or one whose measuring process died (`deaths` times so far)."""

    __tablename__ = "claims"
    __table_args__ = (UniqueConstraint("key_id", "schedule"),)

    id: Mapped[Id]
    key_id: Mapped[KeyId]
    schedule: Mapped[Long]
    deaths: Mapped[int]
    held: Mapped[bool]
    host: Mapped[Word]
    boot_id: Mapped[Word]
    pid: Mapped[int]
    started: Mapped[Word]
    claimed_at: Mapped[Time]


class ResultRow(Base):
    """An expensive result, packed."""

    __tablename__ = "results"
    __table_args__ = (UniqueConstraint("digest"),)

    id: Mapped[Id]
    digest: Mapped[Sha256]
    kind: Mapped[Word]
    weights_sha256: Mapped[Sha256]
    data_sha256: Mapped[Sha256]
    code_sha256: Mapped[Sha256]
    extra: Mapped[Long]
    payload: Mapped[bytes] = mapped_column(LargeBinary)
    stored_at: Mapped[Time]
