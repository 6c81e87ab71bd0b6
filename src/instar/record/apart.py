"""A function on foreign text in a process of its own, where neither time nor memory can be taken from this one.

For what cannot be bounded by looking at it: templates and regular expressions. The process imports the function by the name
that instar gives, limits itself, and only then looks at the text; what comes back is JSON.
"""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

SECONDS = 10
"""Of computing, after the imports."""
MEMORY = 4 * 2**30
"""Bytes of address space, imports included."""
_WAIT = 180
"""Seconds until a process that computes nothing is given up."""
_CODE = "from instar.record.apart import _inside; _inside()"


def apart(function: str, given: Mapping[str, Any], most: int) -> Any:
    """What `module:function` makes of the given arguments; both ways as JSON.

    Args:
        function: one of instar's or of a library's, never of a foreign file.
        given: its arguments.
        most: bytes that the answer may have.

    Raises:
        ValueError: more time, memory or text than allowed, or what the function raised.
    """
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _CODE, function, str(most)]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(given, default=str).encode(),
            capture_output=True,
            env=environment,
            timeout=_WAIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"it did not end within {_WAIT} seconds") from None
    if done.returncode in (-signal.SIGABRT, -signal.SIGSEGV):
        raise ValueError("it is damaged: the process that looked at it broke down")
    if done.returncode:
        raise ValueError(f"it takes more than {SECONDS} seconds, or more than {MEMORY / 2**30:g} GiB")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer["result"]


def _inside() -> None:
    """The other process."""
    answer, kept = sys.stdout, sys.stdin.buffer.read()
    sys.stdout = sys.stderr
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(module), name)
    with suppress(ImportError):  # there is none on Windows, where the wait is the limit
        import resource

        used = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
        resource.setrlimit(resource.RLIMIT_CPU, (used + SECONDS, used + SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        text = json.dumps({"result": function(**json.loads(kept))})
        if len(text) > int(sys.argv[2]):
            text = json.dumps({"error": f"it makes more than {int(sys.argv[2]):,} characters, the most that are read"})
    except MemoryError:
        text = json.dumps({"error": f"it asks for more than {MEMORY / 2**30:g} GiB"})
    except Exception as error:
        text = json.dumps({"error": f"{type(error).__name__}: {str(error)[:300]}"})
    answer.write(text)
    answer.flush()
    os._exit(0)  # nothing of the foreign text is run on the way out


def matches(patterns: Sequence[str], names: Sequence[str]) -> int:
    """How often patterns match names: whoever wants to know whether that ends asks for it apart."""
    return sum(re.fullmatch(pattern, name) is not None for pattern in patterns for name in names)
