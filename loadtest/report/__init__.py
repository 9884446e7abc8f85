"""Reports: one HTML file each, with everything in it: plots as SVG, style, and a few lines of script for the cursor."""

from __future__ import annotations
