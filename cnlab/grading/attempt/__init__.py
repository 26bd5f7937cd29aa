"""One attempt at a submission: the student's cells in a sandbox, the checks in a clean process beside it."""
