"""The pure core: records, events, errors, settings, engines and the store. Never imports ray."""
