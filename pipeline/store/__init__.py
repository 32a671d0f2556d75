"""Storage: images, sessions, results, jobs, webhooks, keys and the event log, in SQL and an object store."""

from pipeline.settings import ServiceSettings
from pipeline.store.api_keys import KeyStore
from pipeline.store.blobs import Blobs
from pipeline.store.common import new_id
from pipeline.store.database import open_database
from pipeline.store.jobs import JobStore
from pipeline.store.log import EventLog
from pipeline.store.pages import PageQuery
from pipeline.store.search import ImageFilter
from pipeline.store.statistics import StoreStatistics
from pipeline.store.store import Store
from pipeline.store.usage import OwnerUsage, UsageStore
from pipeline.store.webhooks import WebhookStore

__all__ = [
    "Blobs",
    "EventLog",
    "ImageFilter",
    "JobStore",
    "KeyStore",
    "OwnerUsage",
    "PageQuery",
    "Store",
    "StoreStatistics",
    "UsageStore",
    "WebhookStore",
    "new_id",
    "open_database",
    "open_store",
]


def open_store(settings: ServiceSettings) -> Store:
    """Open the storage of the settings, creating it if it doesn't exist."""
    data = settings.data_path
    data.mkdir(parents=True, exist_ok=True)
    engine = open_database(settings.storage.database or f"sqlite:///{data / 'truth.sqlite'}")
    return Store(engine, Blobs(settings.storage.blobs or data / "blobs"), settings.storage.retention)
