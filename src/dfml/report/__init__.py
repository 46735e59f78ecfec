"""Tables, figures, contact sheets and self-contained HTML pages of runs and evaluations."""
