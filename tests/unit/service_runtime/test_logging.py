"""A log line is one JSON object with everything in it."""

import json
import logging
import subprocess
import sys

from service_runtime.logging import JsonFormatter


def test_a_warning_of_a_library_is_a_line_of_json_too() -> None:
    program = (
        "import warnings; from service_runtime.logging import configure_logging; configure_logging('info');"
        "warnings.warn('odd')"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    (line,) = ended.stderr.splitlines()
    assert "UserWarning: odd" in json.loads(line)["message"]


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
