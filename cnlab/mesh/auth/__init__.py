"""Auth (Istio's Citadel): gives each service an identity, and Envoys what they need for mutual TLS."""
