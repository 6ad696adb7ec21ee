"""Records as something to read: JSON, terminal tables, Markdown. Everything is returned, nothing printed."""
