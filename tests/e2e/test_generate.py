"""`instar data generate` over real HTTP, against servers that behave and servers that do not."""

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="needs the openai client: pip install 'instar[generate]'")

from instar.cli import main
from instar.generate.choices import GenerateConfig
from instar.generate.generation import generate
from instar.tasks import words
from instar.tasks.audit import audit
from instar.tasks.rows import read_training_file
from scripted import completion, obedient, serve

KEY = "sk-test-0123456789abcdef"
INSTAR = [sys.executable, "-W", "error", "-m", "instar.cli", "data", "generate"]


@pytest.fixture(autouse=True)
def the_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def make(folder: Path, url: str, said=None, **changes):
    defaults = {"model": "m", "rows": 3, "concurrency": 1, "first_wait": 0.01, "longest_wait": 0.5, "timeout": 20}
    config = GenerateConfig.model_validate(defaults | {"base_url": url} | changes)
    return generate(config, folder / "data.jsonl", lambda *_: None, (said if said is not None else []).append)


def journal(folder: Path, kind: str = "back") -> list[dict]:
    lines = [json.loads(line) for line in (folder / "data.journal.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def everything(folder: Path) -> str:
    return "".join(p.read_text() for p in folder.iterdir())


def test_good_answers_become_balanced_data_that_training_reads(tmp_path):
    with serve(lambda call: call.rows()) as server:
        made = make(tmp_path, server.url, rows=95, rows_per_request=5, concurrency=4)
        first = server.calls[0]
    rows = read_training_file(tmp_path / "data.jsonl")
    report = audit(rows, task="ioi3")
    assert report.ok and {f.severity for f in report.findings} <= {"note"}
    assert sorted(report.balance["answer place (3 introduced)"].counts.values()) == [31, 32, 32]
    assert max(Counter(row.answer for row in rows).values()) <= 2
    assert not any(name in row.prompt.split() for row in rows for name in words.TEST_NAMES)
    assert made.facts["calls"] == 19 == len(set(server.prompts)) and made.facts["tokens"] == 19 * 450
    assert made.facts["models reported"] == {"scripted-1": 19} and made.stopped is None and not made.failed
    assert json.loads((tmp_path / "data.made.json").read_text()) == json.loads(json.dumps(made.facts))
    assert first.headers["authorization"] == f"Bearer {KEY}" and first.body["response_format"]["type"] == "json_schema"
    before = (tmp_path / "data.jsonl").read_bytes()
    with serve(lambda call: call.rows()) as server:
        make(tmp_path, server.url, rows=95, rows_per_request=5)
        assert server.calls == [] and (tmp_path / "data.jsonl").read_bytes() == before


def test_what_cannot_be_read_is_repaired_once(tmp_path):
    def script(call):
        if len(call.body["messages"]) == 4 and "bad" not in call.body["messages"][2]["content"]:
            call.rows()
        else:
            call.send(200, completion("bad" if call.number >= 2 else "Sure! Jim."))

    with serve(script) as server:
        made = make(tmp_path, server.url, rows=2, rejects=1)
    assert len(made.rows) == 1 and made.failed and "brought no row" in made.stopped
    repair = server.calls[1].body["messages"]
    assert repair[2] == {"role": "assistant", "content": "Sure! Jim."} and "not JSON" in repair[3]["content"]
    assert len(server.calls) == 4 and made.facts["problems"] == {"unreadable": 2, "unreadable twice": 1}


def test_parameters_that_the_server_refuses_are_left_out(tmp_path):
    refused = ["response_format", "max_tokens", "temperature", "seed"]

    def script(call):
        wrong = next((name for name in refused if name in call.body), None)
        if wrong == "response_format":
            call.send(400, {"error": {"message": "what is that"}})
        elif wrong:
            call.send(422, {"detail": f"Unsupported parameter: '{wrong}'"})
        else:
            call.rows()

    said = []
    with serve(script) as server:
        made = make(tmp_path, server.url, said, rows=4)
    assert len(made.rows) == 4 and len(server.calls) == 4 + 4 and made.facts["sent without"] == sorted(refused)
    assert len(said) == 4 and "structured output" in said[0]
    assert server.calls[-1].body["max_completion_tokens"] == 1000
    with serve(script) as server:
        make(tmp_path, server.url, rows=5)
        assert len(server.calls) == 1  # remembered
    with serve(lambda call: call.send(400, {"error": "the model is on fire"})) as server:
        (tmp_path / "other").mkdir()
        made = make(tmp_path / "other", server.url)
    assert made.failed and "on fire" in made.stopped and len(server.calls) == 1 + 5


def drop(call):
    call.handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    call.handler.connection.close()
    call.handler.close_connection = True


def drop_midway(call):
    call.handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{")
    call.handler.wfile.flush()
    drop(call)


def trickle(call):
    call.handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not call.server.closing.wait(0.05):
        call.handler.wfile.write(b"1\r\n \r\n")


def trickle_error(call):
    call.handler.wfile.write(b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not call.server.closing.wait(0.05):
        call.handler.wfile.write(b"1\r\n \r\n")


def flood(call, status=b"200 OK"):
    call.handler.wfile.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 200000000\r\n\r\n")
    for _ in range(200):
        call.handler.wfile.write(b" " * 1_000_000)


def packed(call):
    call.send(200, gzip.compress(json.dumps(completion("x" * 10**7)).encode()), Content_Encoding="gzip")


def says(content, **more):
    return lambda call: call.send(200, completion(content, **more))


def sends(status, body, **headers):
    return lambda call: call.send(status, body, **headers)


def refusal(call):
    value = completion(None)
    value["choices"][0]["message"]["refusal"] = "I would \x1b[31mrather not"
    call.send(200, value)


AGAIN = {  # another try of the same request helps
    "429": sends(429, {"error": "slow down"}),
    "429, Retry-After 0": sends(429, {}, Retry_After="0"),
    "429, a malformed Retry-After": sends(429, {}, Retry_After="soon\x80"),
    "429, Retry-After nan": sends(429, {}, Retry_After="nan"),
    "429, a date of long ago": sends(429, {}, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
    "429, a date that is none": sends(429, {}, Retry_After="Wed, 99 Oct 99999 07:28:00 GMT"),
    "500 with HTML": sends(500, b"<html>\x1b]0;owned\x07</html>"),
    "503 without a body": sends(503, b""),
    "an error of 200 MB": lambda call: flood(call, b"502 No"),
    "an error that never ends": trickle_error,
    "dropped": drop,
    "dropped midway": drop_midway,
    "never ends": trickle,
    "no HTTP at all": lambda call: call.handler.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n") and drop(call),
}
FINAL = {  # the request is over, the next one is asked
    "429, a day to wait": sends(429, {}, Retry_After="86400"),
    "HTML": sends(200, b"<html><body>Log in</body></html>"),
    "nothing": sends(200, b""),
    "no JSON object": sends(200, b"[1, 2]"),
    "broken UTF-8": sends(200, b'{"choices": "\xff\xfe'),
    "nested deeply": sends(200, b"[" * 100_000),
    "no choices": sends(200, {"choices": []}),
    "choices of another type": sends(200, {"choices": {"a": 1}}),
    "a choice without a message": sends(200, {"choices": [{"text": "hello"}]}),
    "an error in a 200": sends(200, {"error": {"message": "quota", "code": 429}}),
    "null": says(None),
    "a number": says(7),
    "refused": refusal,
    "filtered": says('{"prompt": "x', finish="content_filter"),
    "cut off": says('{"rows": [{"prompt": "After John, Ma', finish="length"),
    "compressed": packed,
    "200 MB": flood,
    "rows of wrong types": lambda call: call.rows(
        [{"prompt": 5, "completion": ["Jim"]}, {"prompt": None, "completion": {}}]
    ),
    "thousands of rows": lambda call: call.rows([{"prompt": "x", "completion": "y"}] * 5000),
    "escape sequences": lambda call: call.rows([{"prompt": "After \x1b[2J\x07John to", "completion": "\x9b31mJim"}]),
}

SAID = {
    "429, a day to wait": "86,400 s",
    "an error that never ends": "within 1 s",
    "never ends": "within 1 s",
    "HTML": "no chat completion: <html>",
    "refused": "refused: I would [31mrather not",
    "filtered": "content filter",
    "cut off": "more than 1000 tokens (--answer-tokens)",
    "compressed": "compressed",
    "200 MB": "larger than",
    "thousands of rows": "too many rows: 4900 more",
}


@pytest.mark.parametrize("name", [*AGAIN, *FINAL])
def test_one_bad_reply_costs_one_call(name, tmp_path):
    bad = (AGAIN | FINAL)[name]

    def script(call):
        call.server = server
        bad(call) if call.number == 0 else call.rows()

    slow = name in ("never ends", "an error that never ends")
    with serve(script) as server:
        made = make(tmp_path, server.url, rows=2, timeout=1.0 if slow else 20)
        again = len(set(server.prompts)) == 2
    assert len(made.rows) == 2 and made.stopped is None and len(server.calls) == 3
    assert again is (name in AGAIN)
    first = journal(tmp_path)[0]
    assert first["final"] is (name in FINAL) and (first["problem"] or first["rows"][0]["reason"])
    assert SAID.get(name, "") in str(first["problem"])
    for path in tmp_path.iterdir():
        assert not {"\x1b", "\x07", "\x9b"} & set(path.read_text())
    assert len(everything(tmp_path)) < 100_000


def test_extra_keys_parts_and_other_names_do_no_harm(tmp_path):
    def script(call):
        rows = [row | {"why": "because", "score": 1e400} for row in obedient(call.body)]
        value = completion(
            [{"type": "text", "text": "```json\n"}, {"type": "text", "text": json.dumps(rows) + "\n```"}, 5]
        )
        call.send(200, value | {"surprise": {"a": [None]}, "model": ["no name"]})

    with serve(script) as server:
        made = make(tmp_path, server.url)
    assert len(made.rows) == 3 and made.facts["models reported"] == {}


@pytest.mark.parametrize(
    "usage", [None, "many", {}, {"prompt_tokens": -5, "completion_tokens": True}, {"total_tokens": 10**40}]
)
def test_a_missing_or_lying_usage_is_estimated(usage, tmp_path):
    with serve(lambda call: call.send(200, completion(json.dumps(obedient(call.body)), usage=usage))) as server:
        made = make(tmp_path, server.url, rows=2, max_tokens=3500)
    assert made.facts["calls with estimated tokens"] == 2 and 400 < made.facts["tokens"] / 2 < 600


def test_a_server_that_is_always_busy_ends_it(tmp_path):
    with serve(lambda call: call.send(429, {"error": f"busy, {call.headers['authorization']}"})) as server:
        made = make(tmp_path, server.url, retries=2, failures=3)
    assert made.failed and not made.rows and "3 requests in a row failed" in made.stopped and "busy" in made.stopped
    assert len(server.calls) == 9 and made.facts["tokens"] == 0 and not (tmp_path / "data.jsonl").exists()
    assert KEY not in made.stopped + everything(tmp_path)


def test_a_server_that_is_not_there_ends_it(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        made = make(tmp_path, f"http://127.0.0.1:{free.getsockname()[1]}/v1", retries=1, failures=2)
    assert made.failed and "no connection with http://127.0.0.1" in made.stopped and made.facts["tokens"] == 0


@pytest.mark.parametrize(
    ("status", "names"), [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "--model"), (405, "405")]
)
def test_what_no_request_can_mend_stops_at_once_and_goes_on_later(status, names, tmp_path):
    def script(call):
        call.send(status, {"error": f"bad {call.headers['authorization']}"}, X_Key=call.headers["authorization"])

    with serve(script) as server:
        made = make(tmp_path, server.url)
    assert made.failed and len(server.calls) == 1
    assert all(part in made.stopped for part in (str(status), server.url, "'m'", names))
    assert KEY not in made.stopped + everything(tmp_path)
    with serve(lambda call: call.rows()) as mended:
        assert len(make(tmp_path, mended.url).rows) == 3
        assert mended.prompts[0] == server.prompts[0]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_the_key_does_not_follow_a_redirect(status, tmp_path):
    with serve(lambda call: call.rows()) as elsewhere:
        target = elsewhere.url.replace("127.0.0.1", "localhost") + "/chat/completions"
        with serve(lambda call: call.send(status, b"", Location=f"{target}?{call.headers['authorization']}")) as server:
            made = make(tmp_path, server.url)
        assert elsewhere.calls == []
    assert made.failed and "redirect" in made.stopped and "localhost" in made.stopped and KEY not in made.stopped


def test_a_stubborn_model_is_held_to_the_quotas(tmp_path):
    """Half the log's trouble: always the one in the middle, a quarter of the time Bob."""

    def script(call):
        names = iter(words.TRAIN_NAMES[call.number % 40 :])
        a, b, c = next(names), "Bob" if call.number % 4 == 0 else next(names), next(names)
        thing = f"{words.OBJECTS[call.number % 14]} of {words.PLACES[call.number % 12]} {call.number}"
        call.rows([{"prompt": f"When {a}, {b} and {c} sat down, {a} and {c} gave {thing} to", "completion": b}])

    with serve(script) as server:
        made = make(tmp_path, server.url, rows=60, rejects=25)
    assert made.failed and "25 answers in a row brought no row that counts, the last one: over quota" in made.stopped
    assert len(made.rows) == 20 and Counter(r.answer for r in made.rows)["Bob"] == 1
    reasons = Counter(row["reason"] for line in journal(tmp_path) for row in line["rows"])
    assert reasons["over quota: answer place 2"] >= 20 and reasons["over quota: answer 'Bob'"] >= 1
    assert made.facts["rejected"]["over quota"] == reasons.total() - 20


def test_budgets_stop_cleanly_and_a_larger_one_goes_on(tmp_path):
    with serve(lambda call: call.rows()) as server:
        made = make(tmp_path, server.url, rows=20, max_requests=7, concurrency=3)
        assert len(server.calls) == 7 == len(made.rows) and not made.failed and "--max-requests 7" in made.stopped
        made = make(tmp_path, server.url, rows=20, max_requests=7, concurrency=3)
        assert len(server.calls) == 7
        made = make(tmp_path, server.url, rows=20, max_tokens=7000, answer_tokens=50, concurrency=4)
        spent = made.facts["tokens"]
        assert (
            not made.failed and "--max-tokens 7,000" in made.stopped and 6000 < spent == 450 * len(server.calls) <= 7000
        )
        made = make(tmp_path, server.url, rows=20, concurrency=4)
    assert len(made.rows) == 20 and len(set(server.prompts)) == len(server.prompts)
    assert len(read_training_file(tmp_path / "data.jsonl")) == 20
    # Failed tries and repairs are calls too.
    other = tmp_path / "other"
    other.mkdir()
    with serve(lambda call: call.send(200, completion("no")) if call.number else call.send(500, b"")) as server:
        made = make(other, server.url, max_requests=3)
    assert len(server.calls) == 3 == made.facts["calls"] and "--max-requests" in made.stopped and not made.failed


def test_settings_and_strangers_are_refused(tmp_path):
    with serve(lambda call: call.rows()) as server:
        make(tmp_path, server.url, rows=2)
        with pytest.raises(ValueError, match="seed is 0 there and 1 here"):
            make(tmp_path, server.url, seed=1)
        (tmp_path / "data.journal.jsonl").unlink()
        with pytest.raises(ValueError, match="not touched"):
            make(tmp_path, server.url)
    assert len(server.calls) == 2


# In a process of its own


def command(out: Path, url: str, *options: object) -> list[str]:
    fast = ("--concurrency", 1, "--first-wait", 0.01, "--longest-wait", 0.5)
    return [*INSTAR, "--model", "m", "--base-url", url, "--out", str(out), *map(str, fast), *map(str, options)]


def wait_for(condition, process) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_generation_goes_on_and_pays_for_nothing_twice(how, tmp_path):
    def script(call):
        if call.number == 2:
            call.send(200, completion("{"))
        elif call.number == 3:
            server.closing.wait()  # the repair is in flight when it is interrupted
        else:
            call.rows()

    out = tmp_path / "data.jsonl"
    with serve(script) as server:
        process = subprocess.Popen(
            command(out, server.url, "--rows", 6), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        wait_for(lambda: len(server.calls) == 4, process)
        process.send_signal(how)
        _, stderr = process.communicate()
        assert process.returncode == (130 if how == signal.SIGINT else -9) and not out.exists()
        assert how == signal.SIGKILL or (b"the same command goes on" in stderr and b"Traceback" not in stderr)
        with (tmp_path / "data.journal.jsonl").open("a") as torn:
            torn.write('{"kind": "ba')
        done = subprocess.run(command(out, server.url, "--rows", 6), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    twice = [body for body, n in Counter(json.dumps(c.body) for c in server.calls).items() if n > 1]
    assert [len(json.loads(body)["messages"]) for body in twice] == [4]  # only the call that was in flight
    facts = json.loads((tmp_path / "data.made.json").read_text())
    assert facts["calls"] == len(server.calls) and facts["calls with estimated tokens"] == 1
    unbroken = tmp_path / "unbroken"
    unbroken.mkdir()
    with serve(lambda call: call.rows()) as server:
        make(unbroken, server.url, rows=6)
    assert (unbroken / "data.jsonl").read_bytes() == out.read_bytes()


def test_the_key_and_escape_sequences_reach_no_file_and_no_terminal(tmp_path):
    spelt = "".join(f"\\u{ord(c):04x}" for c in KEY)

    def script(call):
        key = call.headers["authorization"]
        evil = f'{{"prompt": "After {spelt}, Mary and Jim met, Mary and Jim gave {KEY} to", "completion": "Jim"}}'
        if call.number == 0:
            call.send(500, f"\x1b[2J\x9b {key}".encode(), X_Key=key)
        elif call.number == 1:
            call.send(200, completion(f"{key} \x1b]8;;http://evil\x07"))
        elif call.number == 2:
            call.send(200, completion(evil, model=f"\x1b[31m{key}", id=key))
        elif call.number == 3:
            call.send(404, f"\x1b[2J no model for {key}".encode())
        else:
            call.rows()

    out = tmp_path / "data.jsonl"
    with serve(script) as server:
        chatty = os.environ | {"OPENAI_LOG": "debug"}
        first = subprocess.run(command(out, server.url, "--rows", 2), capture_output=True, text=True, env=chatty)
        assert first.returncode == 1 and "404" in first.stdout
        second = subprocess.run(command(out, server.url, "--rows", 2), capture_output=True, text=True, env=chatty)
        assert second.returncode == 0 and "2 of 2 rows" in second.stdout, second.stderr
    seen = (
        "".join(p.read_text() for p in tmp_path.iterdir()) + first.stdout + first.stderr + second.stdout + second.stderr
    )
    assert KEY not in seen and spelt not in seen and not {"\x1b", "\x9b", "\x07"} & set(seen)
    assert "[key]" in seen


@pytest.mark.parametrize(
    ("options", "env", "message"),
    [
        (["--model", "m"], {}, "OPENAI_API_KEY is not set"),
        (["--model", "m", "--api-key-env", "sk-live-123456"], {}, "--api-key-env: "),
        (["--model", "m", "--base-url", "http://sk-live-123456@x/v1"], {}, "--base-url holds a user name"),
        (["--model", "m", "--rows", "0", "--task", "ball2"], {}, "--task: "),
        (["--model", "m"], {"OPENAI_API_KEY": "sk-live-123456\tx"}, "in the environment variable OPENAI_API_KEY has"),
    ],
)
def test_mistakes_are_one_line_and_name_no_key(options, env, message, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["instar", "data", "generate", *options, "--out", str(tmp_path / "d.jsonl")])
    with pytest.raises(SystemExit, match="1"):
        main()
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and message in said.err
    assert "sk-live" not in said.out + said.err and list(tmp_path.iterdir()) == []


# A server that is not ours


@pytest.fixture(scope="module")
def transformers_server(tmp_path_factory):
    """`transformers serve` with the embedded model, which gets a chat template: the end of the message, for 96 positions."""
    pytest.importorskip("fastapi", reason="needs pip install 'transformers[serving]'")
    pytest.importorskip("uvicorn", reason="needs pip install 'transformers[serving]'")
    import shutil

    from instar.models.organism import FOLDER

    folder = tmp_path_factory.mktemp("served") / "organism"
    shutil.copytree(FOLDER, folder)
    settings = folder / "tokenizer_config.json"
    template = {"chat_template": "{{ messages[-1]['content'][-60:] }}"}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | template))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"
    options = ["serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = (tmp_path_factory.mktemp("log") / "log").open("w+")
    process = subprocess.Popen([sys.executable, "-c", code, *options], stdout=log, stderr=log)

    def up() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        while not up():
            if process.poll() is not None:
                log.seek(0)
                pytest.fail(log.read()[-2000:])
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        process.kill()
        process.wait()
        log.close()


@pytest.mark.slow
def test_transformers_serve_with_the_embedded_model(transformers_server, tmp_path, monkeypatch):
    """It cannot write data: what is tried is the transport, budgets, time-outs, rejects that are kept, and going on."""
    url, name = transformers_server
    monkeypatch.delenv("OPENAI_API_KEY")
    small = {"model": name, "answer_tokens": 24, "retries": 1}
    made = make(tmp_path, url, **small, max_requests=4, concurrency=2)
    assert not made.failed and made.facts["calls"] == 4 and not made.rows and made.facts["models reported"]
    backs = journal(tmp_path)
    # The template drops most of what is sent, so the server's count of tokens is not believed.
    assert len(backs) == 4 and all(line["problem"] and line["estimated"] for line in backs)
    made = make(tmp_path, url, **small, max_tokens=made.facts["tokens"] + 900)
    assert not made.failed and "--max-tokens" in made.stopped and made.facts["calls"] > 4
    made = make(tmp_path, url, **small, rejects=2)
    assert made.failed and "2 answers in a row brought no row" in made.stopped
    # Nobody writes sixty tokens in a thousandth of a second: the deadline ends it, and the server lives on.
    slow = tmp_path / "slow"
    slow.mkdir()
    made = make(slow, url, **small | {"answer_tokens": 60}, timeout=0.001, failures=2)
    assert made.failed and "0.001 s (--timeout)" in made.stopped and made.facts["calls"] == 4
    # More than its 96 positions: an honest 500, tried again and given up.
    made = make(slow, url, **small | {"answer_tokens": 500}, timeout=60, failures=1, max_requests=8)
    assert made.stopped and made.facts["calls"] > 4
    # Cancelled in flight.
    out = tmp_path / "cut.jsonl"
    options = ["--model", name, "--base-url", url, "--out", out, "--answer-tokens", 24, "--rejects", 100_000]
    process = subprocess.Popen([*INSTAR, *map(str, options)], stderr=subprocess.PIPE)
    path = tmp_path / "cut.journal.jsonl"
    wait_for(lambda: path.exists() and path.read_text().count('"back"') > 2, process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130 and b"Traceback" not in stderr
