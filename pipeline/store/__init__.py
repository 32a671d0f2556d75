"""Where images, sessions, results and the event log are kept."""

from pipeline.settings import ServiceSettings
from pipeline.store.blobs import Blobs
from pipeline.store.database import open_database
from pipeline.store.interface import Store, StoreFacts, new_image_id
from pipeline.store.truth import TruthStore

__all__ = ["Blobs", "Store", "StoreFacts", "TruthStore", "new_image_id", "open_database", "open_store"]


def open_store(settings: ServiceSettings) -> Store:
    """Open the storage that the settings name, making it if it is not there yet."""
    data = settings.data_path
    data.mkdir(parents=True, exist_ok=True)
    engine = open_database(settings.storage.database or f"sqlite:///{data / 'truth.sqlite'}")
    return TruthStore(engine, Blobs(settings.storage.blobs or data / "blobs"), settings.storage.retention)
