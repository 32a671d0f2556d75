"""Where images, sessions, results and the event log are kept."""

from pipeline.settings import ServiceSettings
from pipeline.store.blobs import Blobs
from pipeline.store.database import open_database
from pipeline.store.ids import new_id
from pipeline.store.interface import ImageFilter, Store, StoreFacts
from pipeline.store.jobs import JobStore
from pipeline.store.keys import KeyStore
from pipeline.store.log import EventLog
from pipeline.store.truth import TruthStore
from pipeline.store.webhooks import WebhookStore

__all__ = [
    "Blobs",
    "EventLog",
    "ImageFilter",
    "JobStore",
    "KeyStore",
    "Store",
    "StoreFacts",
    "TruthStore",
    "WebhookStore",
    "new_id",
    "open_database",
    "open_store",
]


def open_store(settings: ServiceSettings) -> Store:
    """Open the storage that the settings name, making it if it is not there yet."""
    data = settings.data_path
    data.mkdir(parents=True, exist_ok=True)
    engine = open_database(settings.storage.database or f"sqlite:///{data / 'truth.sqlite'}")
    return TruthStore(engine, Blobs(settings.storage.blobs or data / "blobs"), settings.storage.retention)
