"""A real PostgreSQL server, started here, gives the corpus that the files give; nothing tells its password."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hilat.admissions import HilatError
from hilat.corpora.folder import Corpus, read_corpus
from hilat.corpora.mdace_corpus import NOTES, read_mdace_corpus
from hilat.corpora.mimic import MimicSettings
from hilat.corpora.mimic3 import read_mimic3
from hilat.corpora.mimic4 import MIMIC4, read_mimic4
from hilat.corpora.mimic_tables import MIMIC3, find_tables
from hilat.corpora.postgresql import database_tables, shown_url

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'hilat[postgres]'")
Run = Callable[..., Any]
PASSWORD = "Zebrafish-4711"
ALL = MimicSettings(labels="all", keep="all", splits=None)
# Columns and types of the official build scripts, of the columns that are read and some that are not.
LAYOUT = {
    "mimiciii.noteevents": "row_id int, subject_id int, hadm_id int, chartdate timestamp(0), charttime timestamp(0), "
    "storetime timestamp(0), category varchar(50), description varchar(255), cgid int, iserror char(1), text text",
    "mimiciii.diagnoses_icd": "row_id int, subject_id int, hadm_id int, seq_num int, icd9_code varchar(10)",
    "mimiciii.procedures_icd": "row_id int, subject_id int, hadm_id int, seq_num int, icd9_code varchar(10)",
    "mimiciii.d_icd_diagnoses": "row_id int, icd9_code varchar(10), short_title varchar(50), long_title varchar(255)",
    "mimiciii.d_icd_procedures": "row_id int, icd9_code varchar(10), short_title varchar(50), long_title varchar(255)",
    "mimiciv_note.discharge": "note_id varchar(25), subject_id int, hadm_id int, note_type char(2), note_seq smallint, "
    "charttime timestamp, storetime timestamp, text text",
    "mimiciv_hosp.diagnoses_icd": "subject_id int, hadm_id int, seq_num int, icd_code char(7), icd_version smallint",
    "mimiciv_hosp.procedures_icd": "subject_id int, hadm_id int, seq_num int, chartdate date, icd_code char(7), icd_version smallint",
    "mimiciv_hosp.d_icd_diagnoses": "icd_code char(7), icd_version smallint, long_title varchar(255)",
    "mimiciv_hosp.d_icd_procedures": "icd_code char(7), icd_version smallint, long_title varchar(255)",
}  # fmt: skip


def some_rows() -> dict[str, list[list[object]]]:
    """Rows of every table, with the texts that break readers: quotes, line ends, lines that look like rows, "\\.", blanks."""
    rng = random.Random(8)
    rows: dict[str, list[list[object]]] = {name: [] for name in LAYOUT}
    texts = ['Seen "by" him,\r\n1,2,3\n', "\\.\n\\N\n", "été ≥ 3\t5\n\n", "", "  Home.  \n", 'x"\n"y']
    for n in range(200):
        hadm, subject, when = (
            100_000 + n // 3,
            10 + n // 9,
            rng.choice(["", "2151-08-04 13:00:00", "2151-08-05 00:00:00"]),
        )
        text = f"{n} {rng.choice(texts)}" if n % 10 else rng.choice(texts)
        kind = rng.choice(["Discharge summary", "Discharge summary", "Radiology", "Physician "])
        wrong = rng.choice(["", "", "", "1"])
        rows["mimiciii.noteevents"].append([n, subject, rng.choice([hadm] * 9 + [""]), "2151-08-04 00:00:00", when, "", kind, "Report", "", wrong, text])  # fmt: skip
        rows["mimiciv_note.discharge"].append([f"{subject}-DS-{n}", subject, hadm, rng.choice(["DS", "AD"]), n % 7, when, "", text])  # fmt: skip
    for n in range(300):
        hadm, version = 100_000 + n // 4, 9 if n // 4 % 2 else 10
        code = {9: ["0389", "4019", "E8782"], 10: ["A419", "I10", "S72001A"]}[version][n % 3]
        three = ["0389", "4019", "V1582", ""][n % 4]
        rows["mimiciii.diagnoses_icd"].append([n, 10, hadm, n % 4 or "", three])
        rows["mimiciv_hosp.diagnoses_icd"].append([10, hadm, n % 4, code, version])
        rows["mimiciii.procedures_icd"].append([n, 10, hadm, 1, "0066"])
        procedure = "0066" if version == 9 else "02HV33Z"
        rows["mimiciv_hosp.procedures_icd"].append([10, hadm, 1, "2151-08-04", procedure, version])
    for code in ("0389", "4019", "E8782"):
        rows["mimiciii.d_icd_diagnoses"].append([int(code.strip("E")), code, "", f'Title, "{code}"'])
        rows["mimiciv_hosp.d_icd_diagnoses"] += [[code, 9, f"Nine {code}"], ["A419", 10, "Sepsis"]][
            : 2 if code == "0389" else 1
        ]
    rows["mimiciii.d_icd_procedures"].append([1, "0066", "", "PTCA"])
    rows["mimiciv_hosp.d_icd_procedures"] += [["0066", 9, "PTCA"], ["02HV33Z", 10, "Line"]]
    return rows


def as_csv(name: str, rows: list[list[object]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(column.split()[0] for column in LAYOUT[name].split(", "))
    writer.writerows(rows)
    return stream.getvalue()


def program(name: str) -> str:
    """A program of the PostgreSQL server, or a skip that says it is not installed."""
    found = shutil.which(name)
    if found is None or Path(found).resolve().name != name:
        several = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        found = str(several[-1]) if several else None
    if found is None:
        pytest.skip(f"no PostgreSQL server is installed ({name} is not found)")
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address, with password, of a server in a temporary folder with MIMIC-III and MIMIC-IV restored in it."""
    initdb, postgres = program("initdb"), program("postgres")
    owner: dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short, since a socket's path may have some 100 characters
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        import pwd

        names = {entry.pw_name: entry for entry in pwd.getpwall()}
        user = names.get("postgres") or names.get("nobody")
        if user is None:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody to run it as")
        owner = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        os.chown(folder, user.pw_uid, user.pw_gid)
    (folder / "word").write_text(PASSWORD)
    (folder / "word").chmod(0o644)
    data = folder / "data"
    options = ["-U", "hilat", "-A", "scram-sha-256", "--pwfile", str(folder / "word"), "-E", "UTF8", "--locale=C", "-N"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **owner}
    subprocess.run([initdb, "-D", str(data), *options], check=True, **quiet)
    running = subprocess.Popen([postgres, "-D", str(data), "-k", str(folder), "-h", "", "-F"], **quiet)
    url = f"postgresql://hilat:{PASSWORD}@/postgres?host={folder}"
    try:
        _restore(_connected(url, running))
        yield url
    finally:
        running.terminate()
        running.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def _connected(url: str, running: subprocess.Popen[bytes]) -> psycopg.Connection[Any]:
    for _ in range(300):
        try:
            return psycopg.connect(url)
        except psycopg.OperationalError:
            assert running.poll() is None, "the server ended"
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


def _restore(connection: psycopg.Connection[Any]) -> None:
    with connection:
        for schema in sorted({name.split(".")[0] for name in LAYOUT}):
            connection.execute(f"CREATE SCHEMA {schema}")
        for name, rows in some_rows().items():
            connection.execute(f"CREATE TABLE {name} ({LAYOUT[name]})")
            with (
                connection.cursor() as cursor,
                cursor.copy(f"COPY {name} FROM STDIN (FORMAT csv, HEADER true)") as copy,
            ):
                copy.write(as_csv(name, rows))
        connection.execute("CREATE SCHEMA other")
        connection.execute("CREATE TABLE other.noteevents AS SELECT * FROM mimiciii.noteevents")
        connection.execute("CREATE TABLE other.diagnoses_icd (hadm_id int, seq_num int, icd9_code int)")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same tables as files: mimiciii, mimiciv_hosp and mimiciv_note."""
    folder = tmp_path_factory.mktemp("files")
    for name, rows in some_rows().items():
        schema, table = name.split(".")
        (folder / schema).mkdir(exist_ok=True)
        (folder / schema / f"{table}.csv").write_text(as_csv(name, rows), newline="")
    return folder


def without_files(corpus: Corpus) -> tuple[Any, ...]:
    return corpus.admissions, corpus.code_book, {k: v for k, v in corpus.notes.items() if k != "files"}


def test_the_database_gives_the_corpus_of_the_files(server: str, files: Path) -> None:
    with database_tables(server, MIMIC3) as tables:
        stored = read_mimic3(tables, ALL, categories=("Discharge summary", "Radiology"))
    written = read_mimic3(files / "mimiciii", ALL, categories=("Discharge summary", "Radiology"))
    assert without_files(stored) == without_files(written)
    assert stored.notes["files"]["NOTEEVENTS"] == "mimiciii.noteevents"
    assert len(stored.admissions) > 30
    with database_tables(server, MIMIC4) as tables:
        for version in (9, 10):
            stored = read_mimic4(tables, version, ALL)  # type: ignore[arg-type]
            written = read_mimic4([files / "mimiciv_hosp", files / "mimiciv_note"], version, ALL)  # type: ignore[arg-type]
            assert without_files(stored) == without_files(written)
            assert len(stored.code_book) == 4


def test_mdace_finds_its_notes_in_the_database(server: str, files: Path, tmp_path: Path) -> None:
    notes = [
        r for r in some_rows()["mimiciii.noteevents"] if r[2] and r[6] == "Discharge summary" and len(str(r[-1])) > 9
    ]
    for note in notes[:3]:
        span = {"begin": 2, "end": 8, "code": "038.9", "code_system": "ICD-9-CM", "description": "", "type": "Human"}
        one = {"note_id": note[0], "category": note[6], "description": "Report", "annotations": [span]}
        (tmp_path / f"{note[2]}.json").write_text(json.dumps({"hadm_id": note[2], "comment": "", "notes": [one]}))
    with database_tables(server, NOTES) as tables:
        stored = read_mdace_corpus(tmp_path, tables["NOTEEVENTS"])
    written = read_mdace_corpus(tmp_path, find_tables([files / "mimiciii"], NOTES)["NOTEEVENTS"])
    assert stored.admissions == written.admissions
    assert all(admission.evidence for admission in stored.admissions)


def test_the_command_writes_it_and_the_password_nowhere(server: str, files: Path, tmp_path: Path, run: Run) -> None:
    made = run(
        "corpus",
        "mimic3",
        "--source",
        server,
        "--labels",
        "3",
        "--draw",
        "none",
        "--categories",
        "Discharge summary,Radiology",
        "--out",
        tmp_path / "out",
    )
    assert made.code == 0, made.err
    folder = files / "mimiciii"
    assert (
        read_corpus(tmp_path / "out").admissions
        == read_mimic3(
            folder, MimicSettings(labels=3, splits=None), categories=("discharge summary", "radiology")
        ).admissions
    )
    assert PASSWORD not in made.said
    for path in (tmp_path / "out").iterdir():
        assert PASSWORD.encode() not in path.read_bytes()
    both = run("corpus", "mimic3", folder, "--source", server, "--out", tmp_path / "x")
    assert (both.code, "got both" in both.err, PASSWORD in both.said) == (1, True, False)
    other = run("corpus", "mimic4", "--source", server, "--icd", "10", "--note-schema", "no", "--out", tmp_path / "x")
    assert "no table no.discharge" in other.err
    assert "--note-schema" in other.err
    assert PASSWORD not in other.said


def refusal(url: str, schemas: dict[str, str] | None = None) -> str:
    with pytest.raises(HilatError) as caught, database_tables(url, MIMIC3, schemas) as tables:
        read_mimic3(tables, ALL)
    whole = "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in whole
    assert "Wrong-" not in whole
    return str(caught.value)


def test_wrong_addresses_and_tables_are_told_without_the_password(server: str, tmp_path: Path) -> None:
    assert "refuses the user or the password" in refusal(server.replace(PASSWORD, f"Wrong-{PASSWORD}"))
    assert "no such database or user" in refusal(server.replace("/postgres?", "/nothing?"))
    assert "no server listens" in refusal(f"postgresql://hilat:{PASSWORD}@/postgres?host={tmp_path}")
    assert "not as expected" in refusal(f"postgresql://hilat:{PASSWORD}@/postgres?nonsense=1")
    assert "no address of a database" in refusal(f"mysql://hilat:{PASSWORD}@host/db")
    assert "no table other.procedures_icd" in refusal(server, {"PROCEDURES_ICD": "other"})
    message = refusal(server, {"DIAGNOSES_ICD": "other"})
    assert "has column icd9_code of type integer" in message
    assert "lost their zeros" in message


def test_a_server_that_breaks_off_is_told(server: str) -> None:
    with database_tables(server, MIMIC3) as tables, psycopg.connect(server, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = 'hilat'"
        )
        with pytest.raises(HilatError, match="cannot be read") as caught:
            read_mimic3(tables, ALL)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:word@db.example.org:5432/mimic?sslmode=require", "postgresql://db.example.org:5432/mimic"),
        ("postgres://localhost/mimic", "postgresql://localhost/mimic"),
        ("postgresql:///mimic", "postgresql:///mimic"),
        ("postgresql://me:wo@rd@host/mimic", "the database"),
        ("postgresql://me:wo/rd@host/mimic", "the database"),
        ("postgresql://me:1/2?@host/mimic", "the database"),
        ("postgresql://me:w#rd@host/mimic", "the database"),
        ("postgresql://host/mimic?user=me&password=word", "postgresql://host/mimic"),
    ],
)
def test_of_an_address_only_host_and_database_are_shown(url: str, shown: str) -> None:
    assert shown_url(url) == shown


def test_without_psycopg_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(HilatError, match=r"hilat\[postgres\]"), database_tables("postgresql://host/mimic", MIMIC3):
        pass
