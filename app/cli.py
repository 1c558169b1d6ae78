"""The console script `marginalia`: reads the settings, hands them down, and prints what failed."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from app import settings
from app.errors import SetupError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. A SetupError becomes a message, never a traceback."""
    args = _parser().parse_args(argv)
    try:
        return _run(args, settings.load())
    except SetupError as exc:
        print(f"\nmarginalia {args.command} failed. {exc.message}\n  What to do: {exc.hint}", file=sys.stderr)
        # 1 is what certify says of a model that fails.
        return 2 if args.command == "certify" else 1
    except KeyboardInterrupt:
        return 130


def _run(args: argparse.Namespace, config: settings.Settings) -> int:
    # Imported where needed: each command loads much that the others can do without.
    if args.command == "serve":
        from app.local.serve import serve

        return serve(config)
    if args.command == "doctor":
        from app.local.doctor import doctor

        return doctor(config)
    if args.command == "certify":
        from app.certify.command import run

        return run(args.model, args.chat_template, turns=args.turns, seed=args.seed, as_json=args.json)
    return _migrate(args, config)


def _migrate(args: argparse.Namespace, config: settings.Settings) -> int:
    from app.local.database import database_url, on_database
    from app.store import migrate

    with database_url(config) as url:
        if args.direction == "upgrade":
            on_database(url, migrate.upgrade)
        else:
            on_database(url, lambda database: migrate.downgrade(database, args.revision))
        current = on_database(url, migrate.current)
        print(f"The database is at {current or 'nothing'}; the newest is {migrate.head()}.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="marginalia", description="Responses-API conversation server in front of vLLM."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="start Postgres and vLLM where none is given, migrate, and serve")
    db = commands.add_parser("db", help="move the database's tables to another version")
    directions = db.add_subparsers(dest="direction", required=True)
    directions.add_parser("upgrade", help="to the newest version")
    downgrade = directions.add_parser("downgrade", help="one step back, or to REV (`base`: no tables)")
    downgrade.add_argument("revision", metavar="REV", nargs="?", default="-1")
    commands.add_parser("doctor", help="check Postgres, migrations, workers and the plugin")
    certify = commands.add_parser(
        "certify", help="what a chat template does to history, and whether continuing is exact"
    )
    certify.add_argument(
        "model", metavar="MODEL", type=Path, help="directory of a model, or of a tokenizer alone"
    )
    certify.add_argument("--chat-template", metavar="FILE", type=Path, help="in place of the tokenizer's own")
    certify.add_argument("--turns", type=_positive, default=500, help="random turns to compare (%(default)s)")
    certify.add_argument("--seed", type=int, default=0, help="of the random turns (%(default)s)")
    certify.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


if __name__ == "__main__":
    sys.exit(main())
