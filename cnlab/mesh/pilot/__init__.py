"""Pilot: knows the services, makes Envoy's resources, and hands them to proxies by xDS."""
