"""In-process event bus: delivers each event to its subscribers, in the order of their subscription, at once."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.events import DomainEvent

Subscriber = Callable[[DomainEvent], None]


class EventBus:
    """Subscribers must not block, and must not raise."""

    def __init__(self, *subscribers: Subscriber) -> None:
        self._subscribers = list(subscribers)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Deliver events to a subscriber from now on."""
        self._subscribers.append(subscriber)

    def publish(self, event: DomainEvent) -> None:
        """Deliver an event."""
        for deliver in self._subscribers:
            deliver(event)
