"""Places that are no store, or cannot be reached: one clear line each, and never a password."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from agentrl.cli.store import export_command, import_command
from agentrl.config import RunConfig
from agentrl.errors import ConfigError, StoreError
from agentrl.records import RunRecords, check_new, check_store
from agentrl.store import RunStore
from agentrl.store.folder import open_folder, open_place, place_of, runs_of
from tests.store.episodes import plain

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (f"mysql://u:{SECRET}@host/db", "'mysql' is not supported; valid are sqlite:///file and postgresql://"),
        (f"postgresql+asyncpg://u:{SECRET}@host/db", "only the driver psycopg is supported"),
        (f"postgresql://u:{SECRET}@host", "names no database"),
        (f"postgresql://u:{SECRET}@host:port/db", "is not a URL such as postgresql"),
        (f"postgresql://u:{SECRET}@127.0.0.1:1/db", "cannot be opened: .*refused"),
        (f"postgres://u@127.0.0.1:1/db?password={SECRET}", "cannot be opened: .*refused"),
        (f"postgresql://u:{SECRET}@/db?host=/no/such/folder", "cannot be opened: .*No such file or directory"),
        (f"://u:{SECRET}@host/db", "is not a URL"),
    ],
)
def test_a_url_that_leads_nowhere_is_one_line_without_its_password(place: str, expected: str) -> None:
    if "127.0.0.1" in place or "folder" in place:
        pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match=expected) as caught:
        RunStore(place)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"PostgreSQL needs psycopg: pip install 'agentrl\[postgres\]'") as caught:
        RunStore(f"postgresql://u:{SECRET}@127.0.0.1:1/db")
    assert SECRET not in str(caught.value)


@pytest.mark.postgres
def test_a_server_that_refuses_is_one_line_without_the_password(postgres: Any) -> None:
    from tests.tools.postgres_server import READER

    for url, expected in (
        (postgres.url("nobody_known", "stores"), 'role "nobody_known" does not exist'),
        (postgres.url(READER, "no_such_database"), 'database "no_such_database" does not exist'),
        (postgres.url(READER, "shop"), "another program's database: it holds .*people"),
        (postgres.url(READER, "stores"), "cannot be made: .*permission denied for schema public"),
    ):
        with_password = url.replace("@", f":{SECRET}@", 1)
        with pytest.raises(StoreError, match=expected) as caught:
            RunStore(with_password)
        assert "\n" not in str(caught.value)
        assert SECRET not in str(caught.value)


def test_the_place_of_a_store_hides_the_password(place: str) -> None:
    with_password = place.replace("@", f":{SECRET}@", 1)
    with RunStore(with_password) as store:
        assert SECRET not in store.place
        assert store.place == place if "://" not in place else ":***@" in store.place


def test_export_and_import_do_not_show_the_password(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_password, file = place.replace("@", f":{SECRET}@", 1), tmp_path / "made.jsonl"
    file.write_text(f'{{"trajectory": {plain(1).to_json()}}}\n')
    import_command(file, with_password)
    import_command(file, with_password, "again")
    with pytest.raises(ConfigError, match="holds 2 runs; choose one by --run") as caught:
        export_command(with_password, tmp_path / "out.jsonl")
    said = capsys.readouterr()
    assert "1 episodes of again" in said.out
    assert SECRET not in said.out + said.err + str(caught.value)


READER = """
import os, sys
from agentrl.errors import StoreError
from agentrl.store import RunStore
RunStore(sys.argv[2]).close()  # imports what a store needs, which another user may not be allowed to
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
with RunStore(sys.argv[1]) as store:
    (run,) = store.runs()
    print(sum(len(found.trajectory.turns) for found in store.episodes(run.id)))
    try:
        store.begin_run("b", "")
    except StoreError as error:
        print(error)
"""


@pytest.mark.parametrize("closed", [True, False])
def test_a_store_that_may_only_be_read_can_be_read(closed: bool) -> None:
    """In a folder that may not be written, in a process of its own because root may always write; a store that was not
    closed has a log beside it."""
    with tempfile.TemporaryDirectory() as top:
        file = Path(top) / "run" / "store.sqlite"
        file.parent.mkdir()
        store = RunStore(file)
        store.add_episode(store.begin_run("a", ""), "train", 0, "g", 0, plain(3))
        if closed:
            store.close()
        for path, mode in (
            (Path(top), 0o755),
            (file.parent, 0o555),
            *((path, 0o444) for path in file.parent.iterdir()),
        ):
            path.chmod(mode)
        command = [sys.executable, "-c", READER, str(file), f"{top}/warm.sqlite"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        file.parent.chmod(0o755)
        store.close()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "3",
        f"store {str(file)!r} cannot be written: attempt to write a readonly database",
    ]


def test_runs_share_a_database_that_their_configuration_names(place: str, tmp_path: Path) -> None:
    shared = place if "://" in place else f"sqlite:///{place}"
    for name in ("a", "b"):
        config = RunConfig(name=name, out=tmp_path / "runs", store=shared)
        check_store(config)
        check_new(config)
        records = RunRecords(config)
        records.log("train", 1, {"loss": 1.0})
        records.status("finished")
        records.close()
        assert not (config.folder / "store.sqlite").exists()
        assert place_of(config.folder) == shared
        with open_folder(config.folder) as store:
            assert [run.name for run in runs_of(config.folder, store)] == [name]
            assert store.run(name).status == "finished"
        with pytest.raises(ConfigError, match=f"name='{name}': store .* holds a run; resume it"):
            check_new(RunConfig(name=name, out=tmp_path / "elsewhere", store=shared))
    with RunStore(place) as store:
        assert [run.name for run in store.runs()] == ["a", "b"]


def test_a_password_does_not_get_into_a_configuration_that_is_written_down(tmp_path: Path) -> None:
    for store in (f"postgresql://u:{SECRET}@host/db", f"postgresql://u@host/db?password={SECRET}"):
        pytest.importorskip("psycopg")
        with pytest.raises(ConfigError, match=r"store: leave the password out .*PGPASSWORD") as caught:
            check_store(RunConfig(out=tmp_path, store=store))
        assert SECRET not in str(caught.value)
    with pytest.raises(StoreError, match="'mysql' is not supported"):
        check_store(RunConfig(out=tmp_path, store=f"mysql://u:{SECRET}@host/db"))
    assert list(tmp_path.iterdir()) == []


def test_to_look_at_a_place_makes_nothing(place: str, tmp_path: Path) -> None:
    missing = f"sqlite:///{tmp_path}/missing.sqlite"
    with pytest.raises(StoreError, match="does not exist; name a run's folder"):
        open_place(missing)
    (tmp_path / "config.yaml").write_text(f"store: {missing}\n")
    with pytest.raises(StoreError, match=r"missing\.sqlite', which is not there"):
        open_place(tmp_path)
    if "://" not in place:
        Path(place).touch()
    with pytest.raises(StoreError, match="is empty: nothing has been written to it yet"):
        open_place(place)
    if "://" not in place:
        assert Path(place).stat().st_size == 0
    with pytest.raises(StoreError, match="is empty"):
        RunStore(place, make=False)
    RunStore(place).close()
    open_place(place).close()
    assert not (tmp_path / "missing.sqlite").exists()


def test_a_folder_without_a_run_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{not yaml")
    with pytest.raises(StoreError, match=r"holds no run: it has no store\.sqlite"):
        open_folder(tmp_path)
