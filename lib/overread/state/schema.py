"""The tables. A change here needs a migration in `migrations/versions/` and a new `VERSION`.

Times are seconds since 1970 (UTC); columns called `*_json` hold JSON text with finite numbers.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)

METADATA = MetaData()

# Revision of the newest migration: what this code reads and writes.
VERSION = "0004"

# What one champion says of one case; champion "" holds what the image alone says (features for a cold start).
SCORES = Table(
    "scores",
    METADATA,
    Column("recipe", Text, nullable=False),
    Column("champion", Text, nullable=False),
    Column("case_id", Text, nullable=False),
    # Size and time of change of the image's file: another file under the same name is scored anew.
    Column("revision", Text, nullable=False),
    Column("doubt", Float),
    Column("quality", Float),
    Column("class_doubt_json", Text, nullable=False),
    Column("foreground_mm3_json", Text, nullable=False),
    Column("features_json", Text, nullable=False),
    Column("took_s", Float, nullable=False),
    Column("error", Text),
    Column("scored_at", Float, nullable=False),
    PrimaryKeyConstraint("recipe", "champion", "case_id"),
)

# Whose a case's doubt is, where the champion can say: of a row in `scores`, the parts by name.
DOUBT_PARTS = Table(
    "doubt_parts",
    METADATA,
    Column("recipe", Text, nullable=False),
    Column("champion", Text, nullable=False),
    Column("case_id", Text, nullable=False),
    Column("parts_json", Text, nullable=False),
    PrimaryKeyConstraint("recipe", "champion", "case_id"),
)

# A case that was handed to a client: open until it ends as submitted, skipped or expired.
SERVINGS = Table(
    "servings",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("case_id", Text, nullable=False),
    Column("patient", Text, nullable=False),
    Column("client_id", Text, nullable=False),
    Column("recipe", Text, nullable=False),
    Column("champion", Text, nullable=False),
    Column("strategy", Text, nullable=False),
    # `strategy`, or `control` for the share that is drawn at random whatever the strategy.
    Column("arm", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("score", Float),
    Column("served_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("outcome", Text),
)
# The database itself refuses two open servings of one case.
Index(
    "one_open_serving_per_case",
    SERVINGS.c.case_id,
    unique=True,
    sqlite_where=text("ended_at IS NULL"),
    postgresql_where=text("ended_at IS NULL"),
)
Index("servings_by_client", SERVINGS.c.client_id, SERVINGS.c.served_at)

# One request of a clinician about a case: what was clicked or chosen, and what answered.
TURNS = Table(
    "turns",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("case_id", Text, nullable=False),
    Column("client_id", Text, nullable=False),
    Column("recipe", Text, nullable=False),
    Column("champion", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("payload_json", Text, nullable=False),
    Column("at", Float, nullable=False),
)
Index("turns_by_case", TURNS.c.case_id, TURNS.c.at)

# Where each accepted label came from; the voxels lie in `file`, below the label store.
LABELS = Table(
    "labels",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("case_id", Text, nullable=False),
    Column("patient", Text, nullable=False),
    Column("rater", Text, nullable=False),
    Column("client_id", Text, nullable=False),
    # 1, 2, … per case and rater: an earlier label is never overwritten.
    Column("revision", Integer, nullable=False),
    Column("file", Text, nullable=False, unique=True),
    Column("sha256", Text, nullable=False),
    Column("tag", Text, nullable=False),
    # `accepted`, `approved`, `flagged`, `quarantined`, `withdrawn`.
    Column("status", Text, nullable=False),
    Column("status_reason", Text, nullable=False),
    Column("recipe", Text, nullable=False),
    # The champion that proposed, and how the case was chosen; empty where the case was opened by hand.
    Column("champion", Text, nullable=False),
    Column("serving_id", Integer),
    Column("strategy", Text, nullable=False),
    Column("arm", Text, nullable=False),
    Column("reason", Text, nullable=False),
    # From serving to submitting.
    Column("took_s", Float),
    # Mean Dice over classes between proposed and accepted; per class in `details_json`.
    Column("dice_to_proposal", Float),
    Column("details_json", Text, nullable=False),
    # Some voxels are IGNORE.
    Column("partial", Boolean, nullable=False),
    # Judges challengers and is never trained on.
    Column("protected", Boolean, nullable=False),
    Column("submitted_at", Float, nullable=False),
)
Index("labels_by_case", LABELS.c.case_id, LABELS.c.rater)

# Every set of weights that was ever made for a recipe.
MODELS = Table(
    "models",
    METADATA,
    Column("recipe", Text, nullable=False),
    Column("identity", Text, nullable=False),
    Column("parent", Text, nullable=False),
    # `champion`, `challenger`, `rejected`, `retired`.
    Column("status", Text, nullable=False),
    Column("manifest_json", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    PrimaryKeyConstraint("recipe", "identity"),
)

# What the gate decided, with its whole table.
DECISIONS = Table(
    "decisions",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("recipe", Text, nullable=False),
    Column("champion", Text, nullable=False),
    Column("challenger", Text, nullable=False),
    Column("promoted", Boolean, nullable=False),
    # Whether the champion store was changed accordingly; false after a crash in between.
    Column("applied", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("report_json", Text, nullable=False),
    Column("decided_at", Float, nullable=False),
)

# What a clinician usually wants of one structure, in the terms of one champion.
PREFERENCES = Table(
    "preferences",
    METADATA,
    Column("person", Text, nullable=False),
    Column("recipe", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    # The class's name.
    Column("structure", Text, nullable=False),
    Column("champion", Text, nullable=False),
    Column("values_json", Text, nullable=False),
    Column("cases", Integer, nullable=False),
    Column("updated_at", Float, nullable=False),
    PrimaryKeyConstraint("person", "recipe", "purpose", "structure"),
)

# The accepted masks that it was learnt from, so that it can be learnt anew with another champion.
PREFERENCE_EXAMPLES = Table(
    "preference_examples",
    METADATA,
    Column("person", Text, nullable=False),
    Column("recipe", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("case_id", Text, nullable=False),
    # In whose terms `values_json` says what the masks taught.
    Column("champion", Text, nullable=False),
    # By the class's name, on the image's grid.
    Column("masks_json", Text, nullable=False),
    Column("values_json", Text, nullable=False),
    Column("at", Float, nullable=False),
    PrimaryKeyConstraint("person", "recipe", "purpose", "case_id"),
)

# Append-only; each row's hash covers the row and the hash before it.
AUDIT = Table(
    "audit",
    METADATA,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("details_json", Text, nullable=False),
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False),
)

# One row: which audit row was written last, so that rows missing at the end are noticed.
AUDIT_HEAD = Table(
    "audit_head",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", Integer, nullable=False),
    Column("hash", Text, nullable=False),
)
