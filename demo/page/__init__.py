"""The page: components, HTML, texts, and the handlers of events."""
