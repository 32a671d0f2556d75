"""Pictures: codecs, uploads, masks, drawings and PNG metadata."""
