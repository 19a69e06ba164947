"""The HTTP side of the server: routes, schema, access, limits, metrics."""
