"""Figures for a paper: drawn by matplotlib, saved as SVG with editable text, PDF with TrueType fonts, and PNG."""
