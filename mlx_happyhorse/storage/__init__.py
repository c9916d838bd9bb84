"""Model folders: names, the Hub, weights, checksums."""
