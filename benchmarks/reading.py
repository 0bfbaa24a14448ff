"""What reading MIMIC-IV costs: summaries per second of processor time, and memory, on tables generated here.

    python -m benchmarks.reading                                     # 300 MB of summaries, their codes
    python -m benchmarks.reading --code-rows 5400000                 # as many code rows as the release has
    python -m benchmarks.reading --source postgresql://me@/scratch   # the same out of PostgreSQL too

Each reading runs in a process of its own. With --source the tables are written into the schemas hilat_bench_hosp and
hilat_bench_note of that database, which are dropped before and after.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hilat.cli.console import table

WORDS = [
    "patient",
    "with",
    "fever",
    "denies",
    "pain",
    "and",
    "was",
    "seen",
    "by",
    "the",
    "team",
    "for",
    "a",
    "chest",
    "x-ray",
    "which",
    "showed",
    "no",
    "change",
]
CODES = {9: [f"{n:04d}" for n in range(1000, 9000)], 10: [f"{a}{n:03d}" for a in "ABCDEFGHIJKLMN" for n in range(1000)]}
TITLES = ("icd_code", "icd_version", "long_title")
COLUMNS = {
    "discharge": ("note_id", "subject_id", "hadm_id", "note_type", "note_seq", "charttime", "storetime", "text"),
    "diagnoses_icd": ("subject_id", "hadm_id", "seq_num", "icd_code", "icd_version"),
    "procedures_icd": ("subject_id", "hadm_id", "seq_num", "chartdate", "icd_code", "icd_version"),
    "d_icd_diagnoses": TITLES,
    "d_icd_procedures": TITLES,
}
READ = """
import json, resource, sys, time
from pathlib import Path
from hilat.corpora.mimic import MimicSettings
from hilat.corpora.mimic4 import MIMIC4, convert_mimic4
from hilat.corpora.postgresql import database_tables
from hilat.corpora.splits import StratifiedSplit
source, out, draw = sys.argv[1:4]
if source.startswith("postgresql:"):
    import psycopg
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
splits = StratifiedSplit() if draw == "stratified" else None
settings = MimicSettings(labels="all", min_count=10, splits=splits, memory_limit_mb=512, threads=1)
cpu, wall = time.process_time(), time.perf_counter()
if source.startswith("postgresql:"):
    schemas = {n: "hilat_bench_note" if n == "DISCHARGE" else "hilat_bench_hosp" for n in MIMIC4.required}
    with database_tables(source, MIMIC4, schemas) as tables:
        made = convert_mimic4(tables, Path(out), 10, settings)
else:
    made = convert_mimic4([Path(source)], Path(out), 10, settings)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "before": before / 1024,
    "peak": peak / 1024, "rows": made["notes"]["note_rows"]["rows"], "kept": made["admissions"]}))
"""


def some_code(rng: random.Random, version: int) -> str:
    """A code, a few of them frequent and most of them rare."""
    return CODES[version][int(len(CODES[version]) * rng.random() ** 6)]


def write_tables(folder: Path, megabytes: int, code_rows: int) -> None:
    """MIMIC-IV's layout: summaries of about 10,500 characters, stays of two versions of the ICD."""
    rng = random.Random(0)
    pool = [" ".join(rng.choices(WORDS, k=200)) + ',\n"Seen".\n\n' for _ in range(50)]
    notes = megabytes * 1_000_000 // 10_500
    stays = max(notes, code_rows // 12)
    rows: dict[str, Any] = {
        "discharge": (
            [f"{n // 3}-DS-{n}", n // 3, n, "DS", 1, "2151-08-04 00:00:00", "", f"{n} " + "".join(rng.choices(pool, k=10))]
            for n in range(notes)
        ),
        "diagnoses_icd": (
            [n // 3, n, i, some_code(rng, 9 + n % 2), 9 + n % 2] for n in range(stays) for i in range(1, 12)
        ),
        "procedures_icd": ([n // 3, n, 1, "", f"0{n % 900 + 100}XYZ" if n % 2 else "3893", 9 + n % 2] for n in range(stays)),
        "d_icd_diagnoses": ([code, version, "Title"] for version, codes in CODES.items() for code in codes),
        "d_icd_procedures": [["3893", 9, "Line"], ["0100XYZ", 10, "Other"]],
    }  # fmt: skip
    for name, ones in rows.items():
        inner = folder / ("note" if name == "discharge" else "hosp")
        inner.mkdir(exist_ok=True)
        with gzip.open(inner / f"{name}.csv.gz", "wt", compresslevel=1, encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(COLUMNS[name])
            writer.writerows(ones)


def restore(url: str, folder: Path) -> None:
    """The tables in the database, all columns that are no text of notes as varchar or char(7) for codes."""
    import psycopg

    with psycopg.connect(url) as connection:
        drop(connection)
        for name, columns in COLUMNS.items():
            schema = f"hilat_bench_{'note' if name == 'discharge' else 'hosp'}"
            kinds = {"icd_code": "char(7)", "text": "text", "hadm_id": "int", "subject_id": "int"}
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")  # names of this file only
            listed = ", ".join(f"{column} {kinds.get(column, 'varchar')}" for column in columns)
            connection.execute(f"CREATE TABLE {schema}.{name} ({listed})")
            with (
                gzip.open(folder / ("note" if name == "discharge" else "hosp") / f"{name}.csv.gz", "rb") as stream,
                connection.cursor() as cursor,
                cursor.copy(f"COPY {schema}.{name} FROM STDIN (FORMAT csv, HEADER true)") as copy,
            ):
                while block := stream.read(1 << 20):
                    copy.write(block)


def drop(connection: Any) -> None:
    """Take the benchmark's schemas away."""
    for schema in ("hilat_bench_note", "hilat_bench_hosp"):
        connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


def measured(source: str, out: Path, draw: str) -> dict[str, float]:
    """One reading in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", READ, source, str(out), draw],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Print the table of docs/corpora.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--code-rows", type=int, default=0)
    parser.add_argument("--source", help="postgresql://... of a scratch database")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tables(folder, given.megabytes, given.code_rows)
        cases = [("csv.gz", str(folder), "none"), ("csv.gz, stratified split", str(folder), "stratified")]
        if given.source:
            restore(given.source, folder)
            cases.append(("PostgreSQL", given.source, "none"))
        rows = []
        for n, (what, source, draw) in enumerate(cases):
            one = measured(source, folder / f"out{n}", draw)
            rows.append(
                (what, f"{one['rows']:,.0f}", f"{one['kept']:,.0f}", f"{one['cpu']:.0f} s", f"{one['wall']:.0f} s",
                 f"{one['rows'] / one['cpu']:,.0f}", f"{one['before']:.0f} MB", f"{one['peak']:.0f} MB")
            )  # fmt: skip
        if given.source:
            import psycopg

            with psycopg.connect(given.source) as connection:
                drop(connection)
    columns = (
        "source",
        "summaries",
        "kept",
        "processor",
        "wall",
        "summaries per processor second",
        "memory before",
        "peak",
    )
    table(f"MIMIC-IV, {given.megabytes} MB of summaries, {given.code_rows:,} code rows asked for", columns, rows)


if __name__ == "__main__":
    main()
