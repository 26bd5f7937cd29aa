"""The hub: where students fetch, work and hand in, and the instructor collects and grades.

    place         the directories of a hub, and who owns them
    demonstration system users and a place for a try, gone when it ends
    spawner       a user's server in a control group of its own
    sign_in       which user of this machine somebody is who signs in by OAuth or LTI
    desk          the hub's service that takes submissions in and publishes due dates
    duedates      due dates from the gradebook to the students' assignment list
    __main__      ``python -m cnlab.grading.hub``, which is `make hub`

The hub itself is JupyterHub; its settings are in ``grading/jupyterhub_config.py``.
"""
