"""Commands for training data: looked at before it costs a night, or written by a language model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from instar.progress import say

app = typer.Typer(no_args_is_help=True, help="Look at training data before it costs a night.")


@app.command("audit")
def audit(
    train: Annotated[
        str,
        typer.Argument(
            help="data: .json, .jsonl, .csv, .tsv, .parquet, a folder; DATA#train is one split", metavar="DATA"
        ),
    ],
    test: Annotated[str | None, typer.Option(help="test data, in the same forms")] = None,
    model: Annotated[str | None, typer.Option(help="count tokens with this model's tokenizer")] = None,
    task: Annotated[str | None, typer.Option(help='"ioi" (any N) or "ioi3": read each prompt as N-object IOI')] = None,
    columns: Annotated[str, typer.Option(help="what the data call their columns: prompt=text,answer=label")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Leaks, duplicates, ill-formed rows and imbalance. Exits with 1 on a leak or more than 1 % ill-formed rows."""
    import json

    from instar.record.config import DataConfig
    from instar.report.terminal import show_audit
    from instar.tasks.audit import audit_data

    tokenizer = None
    if model is not None:
        from instar.models.load import load_tokenizer

        tokenizer = load_tokenizer(model)
    parts: Any = {key: value for key, _, value in (part.partition("=") for part in columns.split(",") if part)}
    named = DataConfig(columns=parts).columns
    report = audit_data(train, test, named, tokenizer, task)
    if as_json:
        say(json.dumps(report.as_dict(), indent=1))
    else:
        show_audit(train, report, test)
    raise typer.Exit(0 if report.ok else 1)


@app.command("generate")
def generate(
    model: Annotated[str, typer.Option(help="the model's name at the server")],
    out: Annotated[Path, typer.Option(help="the .jsonl file to write; its journal stands beside it")],
    task: Annotated[str, typer.Option(help="ioi2 … ioi5")] = "ioi3",
    rows: Annotated[int, typer.Option(help="rows to make")] = 500,
    base_url: Annotated[str | None, typer.Option(help="an OpenAI-compatible server: http://localhost:8000/v1")] = None,
    seed: Annotated[int, typer.Option(help="seed of the plans, sent along")] = 0,
    rows_per_request: Annotated[int, typer.Option(help="rows asked for in one answer")] = 1,
    temperature: Annotated[float, typer.Option(help="of the model's sampling")] = 1.0,
    answer_tokens: Annotated[int, typer.Option(help="tokens that one answer may have")] = 1000,
    concurrency: Annotated[int, typer.Option(help="requests at a time")] = 4,
    timeout: Annotated[float, typer.Option(help="seconds for one call, its whole answer included")] = 60.0,
    retries: Annotated[int, typer.Option(help="further tries after 429, 5xx, time-outs, lost connections")] = 4,
    first_wait: Annotated[float, typer.Option(help="seconds before the second try; doubles, with jitter")] = 1.0,
    longest_wait: Annotated[float, typer.Option(help="seconds before any try, at most")] = 30.0,
    failures: Annotated[int, typer.Option(help="stop after so many requests without an answer, in a row")] = 5,
    rejects: Annotated[int, typer.Option(help="stop after so many answers in a row without a row that counts")] = 50,
    max_requests: Annotated[int | None, typer.Option(help="calls in all, tries and repairs included")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="tokens in all, as the server counts them")] = None,
    api_key_env: Annotated[str, typer.Option(help="NAME of the variable that holds the key")] = "OPENAI_API_KEY",
) -> None:
    """Training data written by a language model, checked and balanced. The same command goes on where it stopped."""
    chosen = {k: v for k, v in locals().items() if k != "out"}
    from pydantic import ValidationError

    from instar.generate.choices import GenerateConfig
    from instar.generate.generation import generate
    from instar.progress import bar, console, settled
    from instar.report.terminal import show_audit, show_made
    from instar.tasks.audit import audit
    from instar.tasks.rows import DataRow

    try:
        config = GenerateConfig.model_validate(chosen)
    except ValidationError as error:
        # What was given is not repeated: it may be a key in the wrong place.
        options = (f"--{str(e['loc'][0]).replace('_', '-')}: {e['msg']}" for e in error.errors())
        raise ValueError("; ".join(options)) from None
    with bar("generating") as tell:
        made = generate(config, out, tell, lambda text: console.print(text, soft_wrap=True))
    settled()
    if made.rows:
        show_audit(str(out), audit([DataRow(i, r.prompt, r.answer) for i, r in enumerate(made.rows, 1)], task=task))
    show_made(out, made)
    raise typer.Exit(1 if made.failed else 0)
