"""The command line in a process of its own that need not import anything: a server imports once, and forks for each command.

`python tests/commands.py` is the server. It computes nothing itself, so that what it forks is as fresh as a new process. A
line of JSON on its standard input is a command (`words`, `cwd`, `env`, `out`, `err`: files); its answer is the exit code.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NoReturn


def run(words: list[str], env: dict[str, str], cwd: Path | None = None) -> subprocess.CompletedProcess:
    """`instar WORDS`, as `subprocess.run(…, capture_output=True, text=True)` returns it."""
    server = _server(os.getpid())
    with tempfile.TemporaryDirectory() as folder:
        places = {name: str(Path(folder) / name) for name in ("out", "err")}
        request = {"words": words, "env": env, "cwd": str(cwd or Path.cwd()), **places}
        server.stdin.write(json.dumps(request) + "\n"), server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, "the server of commands has ended"
        said = [Path(place).read_text(encoding="utf-8") for place in places.values()]
    return subprocess.CompletedProcess(["instar", *words], int(answer), *said)


@cache
def _server(pid: int) -> Any:
    """One for each process of tests; it ends when its standard input does."""
    # What is measured is the machine's, whoever asks: as wide on every terminal.
    env = {**os.environ, "COLUMNS": "140"}
    command = [sys.executable, "-W", "error", __file__]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    atexit.register(server.communicate)
    return server


def _serve() -> None:
    import instar.cli
    import instar.report.animate
    import instar.report.figures
    import instar.report.page
    import instar.report.terminal
    import instar.training.train
    import instar.workflow.pipeline
    import instar.workflow.screen  # noqa: F401

    answers, sys.stdout = os.dup(1), sys.stderr
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            _command(**json.loads(line))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.write(answers, f"{code}\n".encode())


def _command(words: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    def before() -> None:
        for stream, place in ((0, os.devnull), (1, out), (2, err)):
            os.dup2(os.open(place, os.O_RDONLY if stream == 0 else os.O_WRONLY | os.O_CREAT), stream)
        sys.stdin = os.fdopen(0, closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(cwd)
        os.environ.clear(), os.environ.update(env)

    become(words, before)


def become(words: list[str], before: Callable[[], None]) -> NoReturn:
    """This process, a fork, is `instar WORDS` from here on, after `before`, and ends with its exit code."""
    from instar import cli

    code: object = 70
    try:
        before()
        sys.stdout, sys.stderr = (open(n, "w", encoding="utf-8", closefd=False) for n in (1, 2))  # noqa: SIM115
        sys.argv = ["instar", *words]
        cli.main()
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 70)


if __name__ == "__main__":
    _serve()
