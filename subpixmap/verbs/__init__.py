"""All verbs as functions; the only room that imports both engine and school."""
