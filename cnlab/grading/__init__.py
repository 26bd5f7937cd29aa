"""How work is graded: a student's function runs in a process of its own; checks look at it from outside."""
