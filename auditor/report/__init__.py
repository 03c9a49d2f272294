"""Figures. Matplotlib is loaded by the modules that draw, so import them when a figure is made."""
