"""Inputs stored with what the teacher said of them: format, writer, reader, views."""
