"""The data plane: Envoys beside the apps, which touch every request."""
