"""`ai-pipeline webhooks` and `ai-pipeline models`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from cli.console import error_console
from cli.service import HERE, ApiKey, AsJson, Server, connected, print_json, print_pretty, print_table

webhooks = typer.Typer(
    no_args_is_help=True,
    help="Webhooks of a running service: create, list, get, update, rotate-secret, test, deliveries, retry, delete.",
)
models = typer.Typer(no_args_is_help=True, help="The models of a running service, with their limits: list, get.")

WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Id of the webhook.")]
DeliveryId = Annotated[str, typer.Argument(metavar="DELIVERY", help="Id of the delivery.")]
Types = Annotated[list[str] | None, typer.Option("--type", help="Only events of this type; repeat it for several.")]


@webhooks.command()
def create(
    url: Annotated[str, typer.Argument(metavar="URL", help="URL that receives the events.")],
    server: Server = HERE,
    api_key: ApiKey = "",
    types: Types = None,
    secret: Annotated[str | None, typer.Option(help="Signing secret; generated if left out.")] = None,
) -> None:
    """Create a webhook; print it with its secret as JSON."""
    with connected(server, api_key) as client:
        print_pretty(asdict(client.webhooks.create(url, types=types or (), secret=secret)))


@webhooks.command("list")
def list_webhooks(server: Server = HERE, api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """List webhooks, newest first."""
    with connected(server, api_key) as client:
        listed = list(client.webhooks.list())
    if as_json:
        for webhook in listed:
            print_json(asdict(webhook))
        return
    rows = [
        (each.webhook_id, "enabled" if each.enabled else "disabled", escape(each.url), ", ".join(each.types) or "all")
        for each in listed
    ]
    print_table(("webhook", "state", "url", "events"), rows)


@webhooks.command()
def get(webhook_id: WebhookId, server: Server = HERE, api_key: ApiKey = "") -> None:
    """Print a webhook as JSON."""
    with connected(server, api_key) as client:
        print_pretty(asdict(client.webhooks.get(webhook_id)))


@webhooks.command()
def update(
    webhook_id: WebhookId,
    server: Server = HERE,
    api_key: ApiKey = "",
    url: Annotated[str | None, typer.Option(help="The new URL.")] = None,
    types: Types = None,
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Whether events are sent.")] = None,
) -> None:
    """Change a webhook's URL or types, pause it or enable it; print it as JSON."""
    with connected(server, api_key) as client:
        print_pretty(asdict(client.webhooks.update(webhook_id, url=url, types=types, enabled=enabled)))


@webhooks.command("rotate-secret")
def rotate_secret(webhook_id: WebhookId, server: Server = HERE, api_key: ApiKey = "") -> None:
    """Replace a webhook's secret; for 24 h deliveries are signed with both. Prints it as JSON."""
    with connected(server, api_key) as client:
        print_pretty(asdict(client.webhooks.rotate_secret(webhook_id)))


@webhooks.command("test")
def send_test(webhook_id: WebhookId, server: Server = HERE, api_key: ApiKey = "") -> None:
    """Send a test event; print its delivery as JSON."""
    with connected(server, api_key) as client:
        print_pretty(asdict(client.webhooks.test(webhook_id)))


@webhooks.command()
def deliveries(
    webhook_id: WebhookId,
    server: Server = HERE,
    api_key: ApiKey = "",
    state: Annotated[list[str] | None, typer.Option(help="pending, delivered or failed; repeatable.")] = None,
    types: Types = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of deliveries.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List deliveries, newest first."""
    with connected(server, api_key) as client:
        found = client.webhooks.deliveries(webhook_id, states=state or (), types=types or ())
        listed = [delivery for delivery, _ in zip(found, range(limit), strict=False)]
    if as_json:
        for delivery in listed:
            print_json(asdict(delivery))
        return
    rows = [
        (
            each.delivery_id,
            each.state,
            each.type,
            str(each.attempts),
            str(each.response_status or ""),
            escape(each.last_error or ""),
        )
        for each in listed
    ]
    print_table(("delivery", "state", "event", "attempts", "response", "error"), rows)


@webhooks.command()
def retry(webhook_id: WebhookId, delivery_id: DeliveryId, server: Server = HERE, api_key: ApiKey = "") -> None:
    """Send a delivery again."""
    with connected(server, api_key) as client:
        client.webhooks.retry(webhook_id, delivery_id)
    error_console.print(f"Delivery {delivery_id} is sent again.")


@webhooks.command()
def delete(webhook_id: WebhookId, server: Server = HERE, api_key: ApiKey = "") -> None:
    """Delete a webhook and its deliveries."""
    with connected(server, api_key) as client:
        client.webhooks.delete(webhook_id)
    error_console.print(f"Deleted webhook {webhook_id}.")


@models.command("list")
def list_models(server: Server = HERE, api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """List the models."""
    with connected(server, api_key) as client:
        listed = client.models.list()
    for model in listed:
        print_json(model.raw) if as_json else print(model.id)


@models.command("get")
def get_model(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")],
    server: Server = HERE,
    api_key: ApiKey = "",
) -> None:
    """Print a model's capabilities, defaults and limits as JSON."""
    with connected(server, api_key) as client:
        print_pretty(client.models.get(model).raw)
