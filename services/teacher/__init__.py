"""Answers temperature-softened logits over HTTP."""
