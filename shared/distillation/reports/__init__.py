"""Reports for people: Markdown and plots, a module a kind of job. All they say is in the report's JSON."""
