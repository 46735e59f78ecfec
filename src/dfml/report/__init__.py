"""Results -> tables, figures, contact sheets, one HTML page."""
