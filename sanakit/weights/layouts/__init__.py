"""Names and configurations of the published layouts, in both directions."""
