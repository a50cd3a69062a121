"""A log line is one JSON object with everything in it."""

import json
import logging
import sys

from service_runtime.logging import JsonFormatter


def test_a_line_carries_time_level_message_extra_and_traceback() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.getLogger("eyebright.test").makeRecord(
            "eyebright.test",
            logging.ERROR,
            __file__,
            1,
            "said %s",
            ("ümlaut",),
            sys.exc_info(),
            extra={"request_id": "r"},
        )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    read = json.loads(line)
    assert read["message"] == "said ümlaut"
    assert read["level"] == "error"
    assert read["request_id"] == "r"
    assert read["time"].endswith("Z")
    assert "ValueError: two" in read["traceback"]
    assert set(read) == {"time", "level", "logger", "message", "request_id", "traceback"}
