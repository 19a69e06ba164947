"""What goes over the wire: routes, schema, access, limits, metrics."""
