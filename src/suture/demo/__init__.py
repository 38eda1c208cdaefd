"""The experiment that Suture exists for: train a model through a string.

Three files: `experiment` trains (copy from there), `pictures` draws, and `console` shows both on
the terminal.
"""

EPOCHS = 20
"""Rounds over all data: enough for both models to find the true weight."""
