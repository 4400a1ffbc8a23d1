"""Bundles signed, verified, served and monitored."""
