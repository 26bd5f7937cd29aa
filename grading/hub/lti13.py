"""Launch from Canvas, Moodle or another LMS by LTI 1.3; for CNLAB_SIGN_IN=lti13 in production.py.

    LTI13_ISSUER            who the platform says it is, such as https://canvas.instructure.com
    LTI13_AUTHORIZE_URL     its OpenID Connect authorization endpoint
    LTI13_JWKS_URL          where its keys are
    LTI13_CLIENT_ID         as registered there
    LTI13_NAME_CLAIM        the claim with the user's address; by default email
    CNLAB_MAIL_DOMAIN       uni.example: whose addresses are our users

That claim decides who is who, and so who reads the gradebook: it must not be the user's to edit. Many
platforms let users change their e-mail. Lock that field there, or have the platform send its log-in name with
domain as a custom parameter (Canvas: ``login=$Canvas.user.loginId``) and name it here: ``custom_login``.
A claim that is no address of the domain, or says ``email_verified: false``, signs nobody in.

Register the tool there with https://hub.uni.example/hub/lti13/config, or by hand: log-in initiation at
/hub/lti13/oauth_login, redirection to /hub/lti13/oauth_callback. Everybody whom the platform lets launch may
come in: it knows who takes the course. The name is made of the claim as in oauth.py.

See: https://ltiauthenticator.readthedocs.io, "LTI 1.3".
"""

import os

c = get_config()  # noqa: F821 - traitlets defines it where it reads this file

c.JupyterHub.authenticator_class = "cnlab.grading.hub.sign_in.Lti13"
c.Lti13.issuer = os.environ["LTI13_ISSUER"]
c.Lti13.authorize_url = os.environ["LTI13_AUTHORIZE_URL"]
c.Lti13.jwks_endpoint = os.environ["LTI13_JWKS_URL"]
c.Lti13.client_id = {os.environ["LTI13_CLIENT_ID"]}
c.Lti13.username_key = os.environ.get("LTI13_NAME_CLAIM", "email")
c.Lti13.mail_domain = os.environ["CNLAB_MAIL_DOMAIN"]
c.Lti13.create_system_users = True
c.Lti13.allow_all = True
# the LMS posts the launch from its own site
c.Lti13.uri_scheme = "https"
