"""Logs: one JSON object a line on standard error.

Owns the format. What is logged is up to the callers; the interceptor logs one line a call.
"""

import json
import logging
import sys
import time
from typing import Any

from service_runtime.tracing import current_trace_id

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, whatever ``extra`` carries, and the traceback;
    ``trace_id`` where a call is traced.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if trace_id := current_trace_id():
            line["trace_id"] = trace_id
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging(level: str) -> None:
    """Send every logger's lines of at least ``level`` (debug, info, warning, error), and Python's warnings, to standard
    error as JSON.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_tells_no_header)
    logging.captureWarnings(True)


def _tells_no_header(record: logging.LogRecord) -> bool:
    """Drop the line by which grpc tells, whole, a header that is no UTF-8: a token, or megabytes that anybody sent."""
    return not str(record.msg).startswith("Invalid encoding on")
