"""The steps of nbgrader, done our way: release, collect, autograde, feedback, over its gradebook."""
