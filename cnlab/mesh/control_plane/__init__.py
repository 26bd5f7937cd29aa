"""The control plane: one process of Pilot, Auth and Mixer, and how a mesh talks to it."""
