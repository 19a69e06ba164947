"""`sana serve`: the models over HTTP, as OpenAI's clients ask for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sanakit.cli.drawing.options import named_adapters, named_controls
from sanakit.cli.terminal import Debug, logs_on_stderr
from sanakit.errors import MissingExtraError, SettingsError

if TYPE_CHECKING:
    from sanakit.serve.server import ModelNames

# Options that `sana ui` has, too.
Models = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODEL",
        show_default="pocket",
        help="As for `sana generate`, or a video or world model; repeat it for several. The first is the "
        "default.",
    ),
]
Host = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS", help="Address to listen on; one that others reach needs a key or --no-auth."
    ),
]
NoAuth = Annotated[bool, typer.Option("--no-auth", help="Serve everybody, without keys.")]
Memory = Annotated[
    str, typer.Option(metavar="SIZE", help="Memory limit, such as 4GB; auto; all: keep everything.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
KeepDays = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, show_default="for ever", help="Age at which jobs and images are deleted."
    ),
]
Filter = Annotated[
    bool, typer.Option("--filter", help="Check images with a safety filter before sending them.")
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="NAME=FILE",
        show_default="none",
        help="LoRA file that requests may use by its name; may be repeated.",
    ),
]
Controls = Annotated[
    list[str] | None,
    typer.Option(
        "--control",
        metavar="NAME=MODEL",
        show_default="none",
        help="ControlNet (folder, .pth, Hub org/repo) that requests may use by its name; may be repeated.",
    ),
]


def serve(
    model: Models = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0 takes a free one.")] = 8000,
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder for jobs, keys and images.")] = Path(
        "sana-data"
    ),
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="SANA_DATABASE",
            show_default="DIR/jobs.sqlite",
            help="Database of jobs and keys: postgresql://...",
        ),
    ] = None,
    pictures: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="SANA_PICTURES",
            show_default="DIR/pictures",
            help="Image store: a folder, or a URL of fsspec such as s3://...",
        ),
    ] = None,
    no_auth: NoAuth = False,
    max_waiting: Annotated[
        int, typer.Option(metavar="N", min=1, help="Most images in the queue; more get a 503.")
    ] = 64,
    max_batch: Annotated[int, typer.Option(metavar="N", min=1, help="Images drawn at once.")] = 16,
    max_steps: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="Of one request.")] = 200,
    max_side: Annotated[int, typer.Option(metavar="PX", min=64, max=4096, help="Of one image.")] = 4096,
    max_frames: Annotated[int, typer.Option(metavar="N", min=1, help="Of one video.")] = 1024,
    memory: Memory = "auto",
    device: Device = "auto",
    dtype: Dtype = "auto",
    cors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN", show_default="none", help="Origin whose web pages may call; may be repeated."
        ),
    ] = None,
    body_limit: Annotated[str, typer.Option(metavar="SIZE", help="Largest request.")] = "20MB",
    keep_days: KeepDays = None,
    drain: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0, max=3600, help="Time to finish running work after a stop signal."
        ),
    ] = 30,
    adapter: Adapters = None,
    control: Controls = None,
    filter: Filter = False,
    prompt_filter: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", show_default="off", help="A ShieldGemma model, which checks prompts first."
        ),
    ] = None,
    no_metrics: Annotated[bool, typer.Option("--no-metrics", help="Do not serve /metrics.")] = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log one JSON object per line.")] = False,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write prompts to the log.")] = False,
    debug: Debug = False,
) -> None:
    """Draw for others, over HTTP, as OpenAI's clients ask.

    The routes are /v1/images/generations, /v1/images/edits, /v1/videos, /v1/worlds, /v1/models and /v1/jobs.

    Without keys (`sana keys create`) everybody on this machine may draw, and nobody else. Ctrl-C or SIGTERM
    finishes what is being drawn, then stops; accepted jobs are kept and drawn after the next start.
    """
    from sanakit.pipelines.memory import parse_budget

    try:
        limit = int(parse_budget(body_limit))
    except ValueError:  # SettingsError is one, and so is what int() makes of "auto"
        raise SettingsError(f"--body-limit {body_limit} is not a size: write one such as 20MB.") from None
    try:
        from sanakit.serve.server import HttpSettings, ServerSettings
        from sanakit.serve.server import serve as run
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from None

    settings = ServerSettings(
        models=tuple(model or ["pocket"]),
        host=host,
        port=port,
        data=data,
        database=database,
        pictures=pictures,
        device=device,
        dtype=dtype,
        memory=memory,
        max_batch=max_batch,
        max_waiting=max_waiting,
        keep_days=keep_days,
        drain=drain,
        adapters=named_adapters(adapter),
        controls=named_controls(control),
        image_filter=filter,
        prompt_filter=prompt_filter,
        door=HttpSettings(
            no_auth=no_auth,
            origins=tuple(cors or []),
            body_limit=limit,
            max_steps=max_steps,
            max_side=max_side,
            max_frames=max_frames,
            previews=not filter,
            metrics=not no_metrics,
            json_log=log_json,
            log_prompts=log_prompts,
        ),
    )
    with logs_on_stderr("sanakit", form="%(message)s" if log_json else "%(asctime)s %(message)s"):
        run(settings, _announce)


def _announce(address: str, models: ModelNames) -> None:
    """Say where the server is and how to call it."""
    print(f"Serving {', '.join(models.all)} at {address}\n")
    client = f"""  OpenAI(base_url="{address}/v1", api_key="...")"""
    if models.images:
        print(f"  curl {address}/v1/images/generations -H 'Content-Type: application/json' \\")
        print("""    -d '{"prompt": "a red apple", "response_format": "url"}'\n""")
        print(f"""{client}.images.generate(prompt="a red apple")\n""")
    if models.videos:
        print(f"  curl {address}/v1/videos -F prompt='a cat waves'\n")
        print(f"""{client}.videos.create_and_poll(prompt="a cat waves")\n""")
    if models.worlds:
        print(f"  curl {address}/v1/worlds -F image=@harbour.jpg -F fov=65\n")
    print("Where there are keys, send one: -H 'Authorization: Bearer KEY'. Ctrl-C stops.", flush=True)
