"""The bundle, which is the folder to deploy: writing it, verifying it, signing it, and its README."""
