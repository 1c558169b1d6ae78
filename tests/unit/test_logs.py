"""What people say is in no log."""

import logging

import pytest
from sqlalchemy import bindparam, select
from sqlalchemy.exc import DBAPIError

from app.main import create_app
from app.store.database import Database

NOWHERE = "postgresql://127.0.0.1:1/none"


def test_what_a_tool_server_answers_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    create_app(database_url=NOWHERE, worker_urls=["http://127.0.0.1:1"], secret=None, prefix_ttl_seconds=60)
    logging.getLogger("mcp.client.streamable_http").error("Error parsing %s", "what it said")
    assert not [record for record in caplog.records if record.name.startswith("mcp")]


def test_an_error_of_the_database_does_not_show_what_was_to_be_written() -> None:
    engine = Database(NOWHERE).engine.sync_engine
    statement = select(bindparam("words", "what she said"))
    error = DBAPIError.instance(
        str(statement),
        {"words": "what she said"},
        Exception("no"),
        Exception,
        hide_parameters=engine.hide_parameters,
        dialect=engine.dialect,
    )
    assert "what she said" not in str(error)
