"""Datasets and teachers that are sent in, part by part, onto the disk."""
