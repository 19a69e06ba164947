"""Find a model's files by what the user names: catalog, folders, the Hub."""
