"""Pictures: codecs, uploads, masks, drawings, and what a PNG says of itself."""
