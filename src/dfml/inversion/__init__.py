"""Inversion: recovering images from classifiers, by exchangeable engines and a loss of exchangeable terms."""
