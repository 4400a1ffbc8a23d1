"""The log of a service, drift in it, and the images most worth a label."""
