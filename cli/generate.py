"""`ai-pipeline generate`: images from prompts, on a running service or one that is started for it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ai_pipeline_client import Client
from ai_pipeline_client import Progress as Step
from cli.config import LaunchOptions, load_config
from cli.console import error_console, report_errors
from cli.errors import LaunchError
from cli.launching import joined, launched
from cli.options import Address, Profile
from cli.ports import free_port
from cli.progress import step_bars
from cli.results import present, save
from cli.service import ApiKey, AsJson, Metadata, Number, Seed, Tags, print_json, service_here, tags_and_metadata
from graphs.http.schemas.generation import GenerateBody
from pipeline.records import Scheduler

STDIN = "-"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where images are generated: a service's URL, or what to start one with."""

    server: str | None
    port: int | None
    profile: str | None
    data_dir: Path | None
    address: str | None
    is_local: bool

    @property
    def starts_service(self) -> bool:
        """Whether an option says that a service is to be started."""
        return self.is_local or any(each is not None for each in (self.port, self.profile, self.data_dir, self.address))


def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the image shows; - reads a prompt per line.")],
    negative_prompt: Annotated[str, typer.Option(help="What it must not show.")] = "",
    seed: Seed = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance scale.")] = None,
    width: Annotated[int | None, typer.Option(help="In pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="In pixels.")] = None,
    scheduler: Annotated[Scheduler | None, typer.Option(help="Noise schedule and solver.")] = None,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="Bit-identical under any load.")] = False,
    n: Number = 1,
    tag: Tags = None,
    metadata: Metadata = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("out"),
    preview: Annotated[Path | None, typer.Option(help="File for the preview of each step.")] = None,
    as_json: AsJson = False,
    server: Annotated[
        str | None,
        typer.Option(
            envvar=["AI_PIPELINE_URL", "PIPELINE_SERVER"],
            help="URL of a running service; the one at port 8000 if left out; if there is none, one is started.",
        ),
    ] = None,
    api_key: ApiKey = "",
    local: Annotated[bool, typer.Option("--local", help="Start a service, even if one is running.")] = False,
    profile: Profile = None,
    port: Annotated[int | None, typer.Option(help="Port of a service that is started; a free one if left out.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Data folder of a service that is started.")] = None,
    address: Address = None,
    _host: Annotated[str | None, typer.Option("--host", hidden=True)] = None,  # options of `serve` are accepted
    _ui_port: Annotated[int | None, typer.Option("--ui-port", hidden=True)] = None,
    _no_ui: Annotated[bool, typer.Option("--no-ui", hidden=True)] = False,
) -> None:
    """Generate images, analyze them, and write each to a folder with its regions and their cutouts."""
    parameters = {
        "negative_prompt": negative_prompt,
        "seed": seed,
        "steps": steps,
        "guidance": guidance,
        "width": width,
        "height": height,
        "scheduler": scheduler,
        "deterministic": deterministic,
    }
    place = Place(server=server, port=port, profile=profile, data_dir=data_dir, address=address, is_local=local)
    with report_errors():
        attached = tags_and_metadata(tag, metadata)
        prompts = [line.strip() for line in sys.stdin if line.strip()] if prompt == STDIN else [prompt]
        with service(place, api_key, prompts, parameters) as client:
            for each in prompts:
                _generate(client, each, n, out, preview, {**parameters, **attached}, as_json=as_json)


@contextmanager
def service(place: Place, api_key: str, prompts: Sequence[str], parameters: dict[str, Any]) -> Iterator[Client]:
    """Open a client of the service that generates the images; end a service that was started for it."""
    url = place.server or (None if place.starts_service else service_here())
    with ExitStack() as stack:
        if url is None:
            url = stack.enter_context(_started(place, prompts, parameters))
        elif place.server is None:
            error_console.print(f"Using the service at {url}; --local starts another.")
        yield stack.enter_context(Client(url, api_key=api_key or None))


@contextmanager
def _started(place: Place, prompts: Sequence[str], parameters: dict[str, Any]) -> Iterator[str]:
    """Start a service, or deploy to a cluster; yield its URL."""
    with tempfile.TemporaryDirectory() as discarded:
        options = LaunchOptions(
            host="127.0.0.1",  # not for other clients
            port=place.port or free_port(),
            profile=place.profile,
            data_dir=place.data_dir.absolute() if place.data_dir else Path(discarded),
        )
        config = load_config(options)
        diffusion = config.settings.load_profile().diffusion
        for prompt in prompts:  # validate before the launch
            GenerateBody.model_validate({"prompt": prompt, **parameters}).resolve(diffusion)
        with joined(place.address, config) if place.address else launched(config) as running:
            if place.address is None and (unready := running.unready_models()):
                raise LaunchError("\n".join(f"The {name} model is not ready: {why}" for name, why in unready.items()))
            yield running.url


def _generate(
    client: Client, prompt: str, n: int, out: Path, preview: Path | None, options: dict[str, Any], *, as_json: bool
) -> None:
    """Generate the images of a prompt; print them, and write `out`/<image id>/ for each."""
    with step_bars() as report:

        def show(step: Step) -> None:
            report(step)
            if preview is not None and step.preview is not None:
                _overwrite(preview, step.preview)

        made = client.images.generate_many(prompt, n=n, include=["labels", "regions"], on_progress=show, **options)
    for image in made:
        folder = out / image.image_id
        document = save(image, folder)
        if as_json:
            print_json(document | {"folder": str(folder)})
        else:
            present(image, folder)


def _overwrite(path: Path, png: bytes) -> None:
    """Write a file atomically: readers may open it meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(png)
    unfinished.replace(path)
