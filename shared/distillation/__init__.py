"""The method: losses, training, evaluation, the verdict, export, reports."""
