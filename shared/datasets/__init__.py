"""Reads images and labels from what users have, checked on the way in."""
