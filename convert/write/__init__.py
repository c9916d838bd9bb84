"""Model folders: precision, shards, journal, card."""
