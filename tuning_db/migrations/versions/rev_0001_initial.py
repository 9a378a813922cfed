"""Keys, records, claims and results."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("json", sa.Text(), nullable=False),
        sa.Column("device", sa.String(512), nullable=False),
        sa.Column("backend", sa.String(512), nullable=False),
        sa.Column("template", sa.String(512), nullable=False),
        sa.Column("dtype", sa.String(512), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
        sa.UniqueConstraint("digest", name="uq_keys_digest"),
    )
    op.create_table(
        "records",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("schedule", sa.Text(), nullable=False),
        sa.Column("status", sa.String(512), nullable=False),
        sa.Column("median_us", sa.Double(), nullable=True),
        sa.Column("p20_us", sa.Double(), nullable=True),
        sa.Column("p80_us", sa.Double(), nullable=True),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("max_err", sa.Double(), nullable=True),
        sa.Column("tolerance", sa.Double(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("measured_at", sa.String(27), nullable=False),
        sa.Column("run_id", sa.String(512), nullable=False),
        sa.Column("noisy", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_records"),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name="fk_records_key_id_keys", ondelete="CASCADE"),
        sa.UniqueConstraint("key_id", "schedule", name="uq_records_key_id_schedule"),
    )
    op.create_index("ix_records_digest", "records", ["digest"])
    op.create_index("ix_records_key_id_status_median_us", "records", ["key_id", "status", "median_us"])
    op.create_table(
        "claims",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.Integer(), nullable=False),
        sa.Column("schedule", sa.Text(), nullable=False),
        sa.Column("deaths", sa.Integer(), nullable=False),
        sa.Column("held", sa.Boolean(), nullable=False),
        sa.Column("host", sa.String(512), nullable=False),
        sa.Column("boot_id", sa.String(512), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started", sa.String(512), nullable=False),
        sa.Column("claimed_at", sa.String(27), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_claims"),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name="fk_claims_key_id_keys", ondelete="CASCADE"),
        sa.UniqueConstraint("key_id", "schedule", name="uq_claims_key_id_schedule"),
    )
    op.create_table(
        "results",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(512), nullable=False),
        sa.Column("weights_sha256", sa.String(64), nullable=False),
        sa.Column("data_sha256", sa.String(64), nullable=False),
        sa.Column("code_sha256", sa.String(64), nullable=False),
        sa.Column("extra", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("stored_at", sa.String(27), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_results"),
        sa.UniqueConstraint("digest", name="uq_results_digest"),
    )
