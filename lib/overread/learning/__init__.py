"""Champions: which weights are in service, and how others take their place."""
