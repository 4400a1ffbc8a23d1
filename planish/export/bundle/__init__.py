"""The folder that ships: written, verified, signed, explained in its README."""
