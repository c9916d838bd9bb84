"""The page: its components and their events."""
