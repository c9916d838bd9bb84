"""The page in a browser: `happyhorse demo`. Nothing here is imported by the package itself."""
