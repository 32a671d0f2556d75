"""Where images and sessions are kept: the interface, and the plain folder behind it for now."""

from pipeline.store.folder import FolderStore
from pipeline.store.interface import Store, new_image_id

__all__ = ["FolderStore", "Store", "new_image_id"]
