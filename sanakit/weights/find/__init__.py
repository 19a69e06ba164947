"""From what a user names to files: catalog, folders, the Hub."""
