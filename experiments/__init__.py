"""Importable drivers for the paper's tables and figures. They import ed2rec, never the reverse."""
